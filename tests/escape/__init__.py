"""Attacks by native code in a worker. Each row is tried by a worker that runs the Python that it is sent."""

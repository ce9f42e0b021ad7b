"""A worker process: runs one guest at a time and reports the result."""

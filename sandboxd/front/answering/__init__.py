"""Decides a request and words its answer, without any input or output of its own."""

"""Benchmarks: one file per question. `python -m bench` runs them all; README.md has the method and the results."""

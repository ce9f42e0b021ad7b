"""Fuzz targets for everything that reads bytes from outside: `python -m tests.fuzz.NAME -runs=N` (libFuzzer's options).

Each module has a function `target(data)` that raises if what it says of its subject does not hold. `test_fuzz.py` runs
each for a bounded time, by coverage where atheris can be imported and with hypothesis where not.
"""

"""`random_get`. Source: WASI snapshot-01, wasi_snapshot_preview1.witx."""

from hostfuncs.wasip1.errno import SUCCESS
from hostfuncs.wasip1.program import Function, Program

CHUNK = 1 << 18
"""Bytes made at a time: a guest may ask for 4 GiB, and its deadline must be noticed meanwhile."""


def random_get(program: Program, buf: int, size: int) -> int:
    """Fill memory with random bytes, of cryptographic quality except in the strict sandbox.

    Parameters:
        buf, size: the range.

    Errno: SUCCESS; FAULT if the range is not all in memory, and then nothing is written.
    """
    memory, random = program.memory, program.sources.random
    if size <= CHUNK:
        memory.check(buf, size)
        memory.write(buf, random(size))
        return SUCCESS
    memory.check(buf, size)
    for at in range(0, size, CHUNK):
        program.state.check()
        memory.write(buf + at, random(min(CHUNK, size - at)))
    return SUCCESS


FUNCTIONS = (Function("random_get", "ii", random_get),)

"""`fd_read`, `fd_write` on the standard streams. Source: WASI snapshot-01, wasi_snapshot_preview1.witx.

Vectors are handled 1,024 at a time (IOV_MAX of Linux): a call that names more moves fewer bytes than it could, which
`readv` and `writev` may always do. So no number of vectors makes the host hold or compute much.
"""

import struct

from hostfuncs.abi import OutputExceeded
from hostfuncs.wasip1.errno import BADF, SUCCESS
from hostfuncs.wasip1.program import STDERR, STDIN, STDOUT, Function, Program

VECTORS = 1024
MAX_MOVED = 1 << 31
"""The most bytes that one call moves, so that overlapping vectors cannot add up to more than the answer can hold."""

_VECTOR = struct.Struct("<II")


def fd_read(program: Program, fd: int, iovs: int, iovs_len: int, nread: int) -> int:
    """Read from stdin.

    Parameters:
        fd: of stdin.
        iovs, iovs_len: array of {pointer u32, length u32}: where the bytes go, in order.
        nread: where the number of bytes goes, u32. 0 is the end of the input, unless nothing was asked for.

    Errno: SUCCESS; BADF if `fd` is not open for reading; FAULT if a pointer lies outside memory, and then nothing
    was consumed.
    """
    if program.stream(fd) != STDIN:
        return BADF
    memory = program.memory
    stdin = program.stdin
    at = program.stdin_at
    if iovs_len == 1:
        # What C libraries do; the general case below, without its loop.
        pointer, length = memory.unpack(_VECTOR, iovs)
        chunk = stdin[at : at + length]
        if len(chunk) < length:
            memory.check(pointer, length)
        if chunk:
            memory.write(pointer, chunk)
        memory.write_u32(nread, len(chunk))
        program.stdin_at = at + len(chunk)
        return SUCCESS
    for pointer, length in vectors(program, iovs, iovs_len):
        memory.check(pointer, length)
        end = at + length
        if end >= len(stdin):
            memory.write(pointer, stdin[at:])
            at = len(stdin)
            break
        memory.write(pointer, stdin[at:end])
        at = end
    memory.write_u32(nread, at - program.stdin_at)
    program.stdin_at = at
    return SUCCESS


def fd_write(program: Program, fd: int, iovs: int, iovs_len: int, nwritten: int) -> int:
    """Write to stdout or stderr.

    Parameters:
        fd: of either.
        iovs, iovs_len: array of {pointer u32, length u32}: where the bytes are, in order.
        nwritten: where the number of bytes taken goes, u32.

    Errno: SUCCESS; BADF if `fd` is not open for writing; FAULT if a pointer lies outside memory. Ends the guest if
    stdout grows beyond its limit.
    """
    stream = program.stream(fd)
    memory = program.memory
    done = 0
    if stream == STDOUT:
        stdout = program.stdout
        room = program.stdout_limit - len(stdout)
        for pointer, length in vectors(program, iovs, iovs_len):
            if length > room - done:
                memory.check(pointer, length)
                raise OutputExceeded(program.stdout_limit)
            memory.append_to(stdout, pointer, length)
            done += length
    elif stream == STDERR:
        stderr = program.stderr
        for pointer, length in vectors(program, iovs, iovs_len):
            if done + length > MAX_MOVED and done:
                break
            memory.check(pointer, length)
            skipped = max(0, length - stderr.skips_above)
            stderr.append(memory.read(pointer + skipped, length - skipped), skipped)
            done += length
    else:
        return BADF
    memory.write_u32(nwritten, done)
    return SUCCESS


def vectors(program: Program, iovs: int, count: int) -> list[tuple[int, int]]:
    """Return the first vectors that name any bytes, at most VECTORS. Raises Fault if the array is not in memory."""
    memory = program.memory
    if count == 1:
        pointer, length = memory.unpack(_VECTOR, iovs)
        return [(pointer, length)]
    memory.check(iovs, count * _VECTOR.size)
    for first in range(0, count, VECTORS):
        found = [
            vector
            for vector in memory.unpack_array(_VECTOR, iovs + first * _VECTOR.size, min(VECTORS, count - first))
            if vector[1]
        ]
        if found:
            return found
        # Empty vectors only: all of them must be passed over, or the guest would take the 0 for the end of its input.
        program.state.check()
    return []


FUNCTIONS = (Function("fd_read", "iiii", fd_read), Function("fd_write", "iiii", fd_write))

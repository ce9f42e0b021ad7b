"""`poll_oneoff`: wait for a time or a stream. Source: WASI snapshot-01, wasi_snapshot_preview1.witx, typenames.witx."""

import struct

from hostfuncs.wasip1.clock import MONOTONIC, REALTIME, THREAD_CPUTIME
from hostfuncs.wasip1.errno import BADF, INVAL, NOTSUP, SUCCESS
from hostfuncs.wasip1.program import FILE, STDIN, Function, Program

MAX_SUBSCRIPTIONS = 1024
"""Most subscriptions of one call, as poll(2) has RLIMIT_NOFILE. A guest has three descriptors and can sort timers."""

CLOCK, FD_READ, FD_WRITE = range(3)
ABSOLUTE = 1
HANGUP = 1

_SUBSCRIPTION = struct.Struct("<QB7x24s8x")
_CLOCK = struct.Struct("<IxxxxQ8x")
_CLOCK_FLAGS = struct.Struct("<H")
_FD = struct.Struct("<I20x")
_EVENT = struct.Struct("<QHB5xQH6x")


def poll_oneoff(program: Program, subscriptions: int, events: int, count: int, nevents: int) -> int:
    """Wait until at least one subscription is ready, and tell which are.

    Streams and files never block, so a subscription to one is ready at once. Otherwise the guest sleeps until the
    earliest clock. Its deadline ends it. In the strict sandbox the earliest clock is ready at once.

    Parameters:
        subscriptions: array of `subscription`, 48 bytes each: user data u64, tag u8 at 8 (0 clock, 1 read, 2 write);
            clock: id u32 at 16, timeout u64 at 24, precision u64 at 32, flags u16 at 40 (1 absolute);
            read, write: descriptor u32 at 16.
        events: array for as many `event`s, 32 bytes each: user data u64, errno u16 at 8, type u8 at 10,
            bytes available u64 at 16, flags u16 at 24 (1 the other end is closed).
        count: of subscriptions, 1 to 1,024.
        nevents: where the number of events written goes, u32.

    Errno: SUCCESS; INVAL if `count` is out of range, a tag is unknown or clock flags are; FAULT if an array lies
    outside memory. What is wrong with one subscription stands in its event: BADF, INVAL for an unknown clock,
    NOTSUP for the CPU clocks.
    """
    memory = program.memory
    memory.check(subscriptions, count * _SUBSCRIPTION.size)
    memory.check(events, count * _EVENT.size)
    memory.check(nevents, 4)
    if not 0 < count <= MAX_SUBSCRIPTIONS:
        return INVAL
    ready: list[bytes] = []
    waiting: list[tuple[int, int]] = []
    for at in range(count):
        entry = memory.read(subscriptions + at * _SUBSCRIPTION.size, _SUBSCRIPTION.size)
        userdata, tag, _ = _SUBSCRIPTION.unpack(entry)
        if tag == CLOCK:
            clock, timeout = _CLOCK.unpack_from(entry, 16)
            (flags,) = _CLOCK_FLAGS.unpack_from(entry, 40)
            if flags & ~ABSOLUTE:
                return INVAL
            if clock > MONOTONIC:
                error = NOTSUP if clock <= THREAD_CPUTIME else INVAL
                ready.append(_EVENT.pack(userdata, error, CLOCK, 0, 0))
            else:
                waiting.append((_remaining(program, clock, timeout, flags), userdata))
        elif tag in (FD_READ, FD_WRITE):
            ready.append(_stream_event(program, userdata, tag, _FD.unpack_from(entry, 16)[0]))
        else:
            return INVAL
    _sleep(program, ready, waiting)
    memory.write(events, b"".join(ready))
    memory.write_u32(nevents, len(ready))
    return SUCCESS


def _remaining(program: Program, clock: int, timeout: int, flags: int) -> int:
    """Return the nanoseconds until a clock subscription is ready."""
    if not flags & ABSOLUTE:
        return timeout
    now = program.sources.realtime() if clock == REALTIME else program.sources.monotonic()
    return max(0, timeout - now)


def _stream_event(program: Program, userdata: int, tag: int, fd: int) -> bytes:
    stream = program.stream(fd)
    if stream == FILE:
        return _EVENT.pack(userdata, SUCCESS, tag, 65536, 0)
    if stream < 0 or (stream == STDIN) != (tag == FD_READ):
        return _EVENT.pack(userdata, BADF, tag, 0, 0)
    if tag == FD_READ:
        available = len(program.stdin) - program.stdin_at
        return _EVENT.pack(userdata, SUCCESS, tag, available, 0 if available else HANGUP)
    return _EVENT.pack(userdata, SUCCESS, tag, 65536, 0)


def _sleep(program: Program, ready: list[bytes], waiting: list[tuple[int, int]]) -> None:
    """Sleep unless something is ready. Then add the events of the clocks that are ready."""
    if not waiting:
        return
    limit = 0 if ready else min(remaining for remaining, _ in waiting)
    if limit and program.sources.sleeps:
        program.state.sleep(limit)
    ready.extend(_EVENT.pack(userdata, SUCCESS, CLOCK, 0, 0) for remaining, userdata in waiting if remaining <= limit)


FUNCTIONS = (Function("poll_oneoff", "iiii", poll_oneoff),)

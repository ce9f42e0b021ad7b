"""wasi:clocks: the monotonic clock, its timers, and the wall clock. None of these functions fails."""

from time import monotonic_ns

from hostfuncs.wasip1.sources import SECOND
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_poll import Pollable
from hostfuncs.wasip2.types import U32, U64, Own, Record

MONOTONIC = Interface("wasi:clocks/monotonic-clock", {"pollable": Pollable})
WALL = Interface("wasi:clocks/wall-clock")

DATETIME = Record((("seconds", U64), ("nanoseconds", U32)))


@MONOTONIC.function("now", result=U64)
def monotonic_now(host: Host) -> int:
    """Return the nanoseconds since an instant that is fixed for the invocation."""
    return host.sources.monotonic()


@MONOTONIC.function("resolution", result=U64)
def monotonic_resolution(host: Host) -> int:
    """Return the resolution of the monotonic clock in nanoseconds."""
    return host.sources.monotonic_resolution


def _passed() -> bool:
    return True


def _timer(host: Host, instant: int) -> Pollable:
    if not host.sources.sleeps:
        return Pollable(_passed, 0)
    return Pollable(lambda: monotonic_ns() >= instant, instant)


@MONOTONIC.function("subscribe-instant", U64, result=Own(Pollable))
def subscribe_instant(host: Host, instant: int) -> Pollable:
    """Return a pollable that is ready once `now` has reached `instant`, in nanoseconds.

    In the strict sandbox it is ready at once.
    """
    return _timer(host, instant)


@MONOTONIC.function("subscribe-duration", U64, result=Own(Pollable))
def subscribe_duration(host: Host, duration: int) -> Pollable:
    """Return a pollable that is ready after `duration` nanoseconds.

    In the strict sandbox it is ready at once.
    """
    return _timer(host, host.sources.monotonic() + duration)


@WALL.function("now", result=DATETIME)
def wall_now(host: Host) -> tuple[int, int]:
    """Return the seconds and nanoseconds since 1970-01-01T00:00:00Z."""
    return divmod(host.sources.realtime(), SECOND)


@WALL.function("resolution", result=DATETIME)
def wall_resolution(host: Host) -> tuple[int, int]:
    """Return the resolution of the wall clock, in seconds and nanoseconds."""
    return divmod(host.sources.realtime_resolution, SECOND)


INTERFACES = (MONOTONIC, WALL)

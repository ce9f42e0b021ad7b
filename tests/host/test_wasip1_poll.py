"""WASI preview 1: poll_oneoff, which sleeps and says which streams are ready."""

import struct
import time

import pytest

from hostfuncs.abi import Cancelled, DeadlineExceeded
from tests.host.preview1 import BADF, END, FAULT, INVAL, NOTSUP, SUCCESS, u32
from tests.host.wat import HOUR_NS, Bench, wasi


def clock(userdata: int, clock_id: int, timeout: int, flags: int = 0) -> bytes:
    return struct.pack("<QB7xIxxxxQQH6x", userdata, 0, clock_id, timeout, 0, flags)


def stream(userdata: int, tag: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, tag, fd)


def poll(guest: Bench, *subscriptions: bytes) -> list[tuple[int, int, int, int, int]]:
    guest.write(0, b"".join(subscriptions))
    guest.write(30000, b"\xff" * 32 * len(subscriptions))
    assert guest.call("poll_oneoff", 0, 30000, len(subscriptions), 65000) == SUCCESS
    count = u32(guest, 65000)
    layout = struct.Struct("<QHB5xQH6x")
    return [layout.unpack(guest.read(30000 + 32 * at, 30032 + 32 * at)) for at in range(count)]  # type: ignore[misc]


def test_layouts() -> None:
    assert len(clock(1, 2, 3)) == len(stream(1, 2, 3)) == 48


def test_streams_are_ready_and_clocks_are_not_waited_for() -> None:
    guest = wasi("poll_oneoff", stdin=b"abc")
    events = poll(guest, clock(1, 1, HOUR_NS), stream(2, 1, 0), stream(3, 2, 1), stream(4, 1, 1), stream(5, 2, 9))
    assert events == [(2, 0, 1, 3, 0), (3, 0, 2, 65536, 0), (4, BADF, 1, 0, 0), (5, BADF, 2, 0, 0)]


def test_at_its_end_stdin_is_ready_and_hung_up() -> None:
    assert poll(wasi("poll_oneoff"), stream(7, 1, 0)) == [(7, 0, 1, 0, 1)]


@pytest.mark.parametrize("clock_id", [0, 1])
@pytest.mark.parametrize("absolute", [False, True])
def test_sleeping_takes_the_time_it_should(clock_id: int, absolute: bool) -> None:
    guest = wasi("poll_oneoff")
    pause = 30_000_000
    now = time.time_ns() if clock_id == 0 else time.monotonic_ns()
    began = time.monotonic_ns()
    events = poll(guest, clock(8, clock_id, now + pause if absolute else pause, int(absolute)), clock(9, 1, HOUR_NS))
    assert events == [(8, 0, 0, 0, 0)]
    assert time.monotonic_ns() - began >= pause - 1_000_000


def test_an_instant_that_has_passed_is_ready() -> None:
    assert poll(wasi("poll_oneoff"), clock(8, 1, 1, 1), clock(9, 0, 1, 1)) == [(8, 0, 0, 0, 0), (9, 0, 0, 0, 0)]


def test_clocks_that_cannot_be_waited_for() -> None:
    assert poll(wasi("poll_oneoff"), clock(8, 2, 1), clock(9, 77, 1)) == [(8, NOTSUP, 0, 0, 0), (9, INVAL, 0, 0, 0)]


@pytest.mark.parametrize("timeout", [HOUR_NS, (1 << 64) - 1])
def test_a_sleep_ends_with_the_deadline(timeout: int) -> None:
    guest = wasi("poll_oneoff", deadline_ns=20_000_000)
    with pytest.raises(DeadlineExceeded):
        poll(guest, clock(8, 1, timeout))


def test_a_sleep_ends_when_a_signal_handler_wants_the_run_to_end() -> None:
    guest = wasi("poll_oneoff")
    guest.state.interrupt = KeyboardInterrupt()
    with pytest.raises(Cancelled):
        poll(guest, clock(8, 1, HOUR_NS))


def test_the_strict_sandbox_does_not_sleep() -> None:
    guest = wasi("poll_oneoff", strict=True, deadline_ns=HOUR_NS)
    assert poll(guest, clock(8, 1, 1000 * HOUR_NS), clock(9, 1, 2000 * HOUR_NS)) == [(8, 0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 30000, 0, 65000), INVAL),
        ((0, 0, 1025, 65000), INVAL),
        ((0, 0, -1, 65000), FAULT),
        ((END - 47, 0, 1, 65000), FAULT),
        ((0, END - 31, 1, 65000), FAULT),
        ((0, 30000, 1, END - 3), FAULT),
    ],
)
def test_poll_refuses(arguments: tuple[int, ...], expected: int) -> None:
    assert wasi("poll_oneoff").call("poll_oneoff", *arguments) == expected


@pytest.mark.parametrize("subscription", [stream(1, 3, 0), clock(1, 1, 0, 2)])
def test_poll_refuses_unknown_tags_and_flags(subscription: bytes) -> None:
    guest = wasi("poll_oneoff")
    guest.write(0, subscription)
    assert guest.call("poll_oneoff", 0, 30000, 1, 65000) == INVAL

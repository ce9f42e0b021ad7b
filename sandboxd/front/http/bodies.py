"""Read whole request bodies into memory, and bound the time that a caller may take to send one."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from sandboxd.front.answering.failures import CallerGone
from sandboxd.front.ports import Pace, Receive

WHOLE: Final = "sandboxd.whole"
"""ASGI extension: a callable that returns whether the whole body has arrived, so that reading it does not wait."""

HELD: Final = "sandboxd.held"
"""Key of the ASGI message that begins a response: the bytes of its body, all of which are in memory already."""

CLOSE: Final = (b"connection", b"close")
"""The header of an HTTP/1 response to a request whose body may still be arriving."""
BODY_TIMEOUT: Final = "body_timeout"
"""The reason by which the metrics count late bodies."""

Whole = Callable[[], bool]


class BodyLate(Exception):  # noqa: N818 - an answer on its way out, not an error of the program
    """The body did not arrive in time.

    Parameters:
        deadline: True if the request's deadline has passed; False if the caller sent the body too slowly.
    """

    def __init__(self, *, deadline: bool) -> None:
        super().__init__("the request's body did not come in time")
        self.deadline = deadline


async def read_body(receive: Receive, pace: Pace, *, limit: int, deadline_ns: int | None = None) -> bytes:
    """Read a body.

    Parameters:
        receive: the request's ASGI receive.
        pace: the slowest permitted transfer.
        limit: bytes of the longest permitted body. Of a longer body, somewhat more than this is returned.
        deadline_ns: CLOCK_MONOTONIC instant by which the body must have arrived in any case.

    Raises:
        BodyLate: the body did not arrive in time.
        CallerGone: the caller closed the connection before the end of the body.
    """
    parts: list[bytes] = []
    size = 0
    began = time.monotonic()
    until = None if deadline_ns is None else deadline_ns * 1e-9
    loop = asyncio.get_running_loop()
    # The event loop may use another clock, and its time may be older.
    offset = loop.time() - began
    due = _due(began, began, 0, pace, until)
    try:
        async with asyncio.timeout_at(offset + due) as clock:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerGone
                part = message.get("body", b"")
                if part:
                    parts.append(part)
                    size += len(part)
                if size > limit or not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
                due = _due(began, time.monotonic(), size, pace, until)
                clock.reschedule(offset + due)
    except TimeoutError:
        raise BodyLate(deadline=due == until) from None


def _due(began: float, now: float, size: int, pace: Pace, until: float | None) -> float:
    """By when more has to come."""
    due = now + pace.timeout_s
    if pace.min_rate:
        due = min(due, began + pace.timeout_s + size / pace.min_rate)
    return due if until is None else min(due, until)

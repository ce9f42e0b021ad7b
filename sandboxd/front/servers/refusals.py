"""Callers that an HTTP server itself turns away, before or behind the application: one table, one count, one log.

Whoever can open a connection could fill a log that has a line for each of these. So they are counted in a metric, and
summed up in one line a second.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from sandboxd.log import fields

log = logging.getLogger("sandboxd.http")

REPORT_S: Final = 1.0
"""The log tells of refusals at most once in this time."""


class Refusal(StrEnum):
    """The reasons for turning a caller away. The value is the label of the metric."""

    MALFORMED = "malformed"
    """The bytes are no HTTP request, or one whose framing is ambiguous: 400, 501 or 505."""
    HEAD_SIZE = "head_size"
    """The request head is longer than `listen.maxHeaderSize`: 431."""
    HEAD_TIMEOUT = "head_timeout"
    """The request head was not complete within `listen.headerTimeout`: the connection is closed."""
    BODY_TIMEOUT = "body_timeout"
    """The request's body paused for `listen.bodyTimeout`, or came more slowly than `listen.minRate`: 408."""
    SEND_TIMEOUT = "send_timeout"
    """The response was not read for `listen.sendTimeout`, or more slowly than `listen.minRate`: it is cut off."""
    UNREAD = "unread"
    """More than `listen.maxUnread` was held for callers, and this one read least: its response is cut off."""
    CONNECTIONS = "connections"
    """There were more connections than `listen.maxConnections`: 503, or an idle connection was closed for another."""
    FLOOD = "flood"
    """An HTTP/2 connection sent control frames without asking for anything: GOAWAY ENHANCE_YOUR_CALM."""


class Refusals:
    """Counts refusals, and logs their sums. All of it happens on one event loop.

    Parameters:
        count: tells the metrics of one more.
    """

    def __init__(self, count: Callable[[str], None] | None = None) -> None:
        self._count = count
        self._unreported: Counter[Refusal] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Refusals {self._unreported.total()} not logged yet>"

    def add(self, refusal: Refusal) -> None:
        """Count a caller that was turned away."""
        if self._count is not None:
            self._count(refusal.value)
        self._unreported[refusal] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REPORT_S, self.report)

    def report(self) -> None:
        """Log what has not been logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for refusal, count in self._unreported.items():
            log.info("callers were turned away: %s", refusal.value, extra=fields(count=count))
        self._unreported.clear()

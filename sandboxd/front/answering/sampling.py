"""Samples the log lines of failed requests: callers may cause thousands a second, and a few tell as much as all.

The first failed request of a kind is logged in full, and so are the next few. A kind is a binding, an outcome and a
message. Those that follow within a second are only counted, which costs a small part of a line, and then one line tells
how many they were.
"""

import asyncio
import logging
import time
from collections import Counter
from typing import Final

from sandboxd.front.answering.outcomes import TABLE
from sandboxd.log import dropped_lines, fields
from sandboxd.outcome import Outcome

log = logging.getLogger("sandboxd.request")

PERIOD_S: Final = 1.0
"""Of the requests of a kind within this time, the first few are logged in full."""
FEW: Final = 5
"""So many of a kind are: whoever tries something finds the line of each answer."""
MANY: Final = 100
"""If so many were, of all kinds, only the first of each further kind is."""
MAX_TOLD: Final = 20
"""The kinds whose counts get a line each, those with most requests. One line tells the sum of the others: the event
loop, which writes them, answers nobody meanwhile."""


class _Kind:
    """The counts of one kind in this period."""

    __slots__ = ("counted", "full", "logged")

    def __init__(self, *, logged: bool) -> None:
        self.logged = logged
        """Whether lines of its level are written."""
        self.full = 1
        self.counted = 0


class Sampler:
    """Counts what is not logged in full, and tells it once a period. It belongs to the event loop that uses it.

    Parameters:
        source: the kind of line, for the metric `sandboxd_log_lines_dropped_total`.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._kinds: dict[tuple[str, Outcome, str], _Kind] = {}
        self._lines = 0
        """The lines of this period."""
        self._ends = 0.0
        self._all = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Sampler {self._source}: {sum(kind.counted for kind in self._kinds.values())} counted>"

    def in_full(self, binding: str, outcome: Outcome, message: str) -> bool:
        """Return whether a request is to be logged in full. Count it if it is not.

        At the level `debug` all are.

        Parameters:
            binding: a configured name, or empty.
            outcome: how the request ended. Where lines of its level are not written, nothing is counted.
            message: of the line, from a closed set.
        """
        now = time.monotonic()
        if now >= self._ends:
            self.tell()
            self._ends = now + PERIOD_S
            self._all = log.isEnabledFor(logging.DEBUG)
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self.tell)
        kind = self._kinds.get((binding, outcome, message))
        if kind is None:
            kind = self._kinds[binding, outcome, message] = _Kind(logged=log.isEnabledFor(TABLE[outcome].level))
            self._lines += kind.logged
            return kind.logged
        if not kind.logged:
            return False
        if (kind.full < FEW and self._lines < MANY) or self._all:
            kind.full += 1
            self._lines += 1
            return True
        kind.counted += 1
        dropped_lines[self._source, binding] += 1
        return False

    def tell(self) -> None:
        """Log what was counted, and begin anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ends = 0.0
        counted = Counter({name: kind.counted for name, kind in self._kinds.items() if kind.counted})
        self._kinds, self._lines = {}, 0
        told = counted.most_common(MAX_TOLD)
        for (binding, outcome, message), count in told:
            log.log(
                TABLE[outcome].level,
                "%s: %d more like it",
                message,
                count,
                extra=fields(event="failures_counted", binding=binding, outcome=outcome.value, count=count),
            )
        rest = counted.total() - sum(count for _, count in told)
        if rest:
            log.warning(
                "requests failed: %d more, of %d other kinds",
                rest,
                len(counted) - len(told),
                extra=fields(event="failures_counted", count=rest),
            )

"""Samples the log lines of failed requests: callers may cause thousands a second, and one tells as much as all.

The first failed request of a kind is logged in full. A kind is a binding, an outcome and a message. Those that follow
within a second are only counted, which costs a fiftieth of a line, and then one line tells how many they were.
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
"""The first request of a kind within this time is logged in full."""
MAX_TOLD: Final = 20
"""The kinds whose counts get a line each, those with most requests. One line tells the sum of the others: the event
loop, which writes them, answers nobody meanwhile."""
_NOT_LOGGED: Final = -1


class Sampled:
    """Counts what is not logged in full, and tells it once a period. It belongs to the event loop that uses it.

    Parameters:
        source: the kind of line, for the metric `sandboxd_log_lines_dropped_total`.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._counts: dict[tuple[str, Outcome, str], int] = {}
        """By binding, outcome, message: the requests of this period without a line of their own, or `_NOT_LOGGED`."""
        self._ends = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Sampled {self._source}: {sum(self._counts.values())} counted>"

    def first(self, binding: str, outcome: Outcome, message: str) -> bool:
        """Return whether a request is the first of its kind, which is to be logged in full. Count it if it is not.

        At the level `debug` all are logged in full.

        Parameters:
            binding: a configured name, or empty.
            outcome: how the request ended. Where lines of its level are not written, nothing is counted.
            message: of the line, from a closed set.
        """
        now = time.monotonic()
        if now >= self._ends:
            self.tell()
            self._ends = now + PERIOD_S
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self.tell)
        kind = (binding, outcome, message)
        count = self._counts.get(kind)
        if count is None:
            logged = log.isEnabledFor(TABLE[outcome].level)
            self._counts[kind] = 0 if logged else _NOT_LOGGED
            return logged
        if log.isEnabledFor(logging.DEBUG):
            return True
        if count != _NOT_LOGGED:
            self._counts[kind] = count + 1
            dropped_lines[self._source, binding] += 1
        return False

    def tell(self) -> None:
        """Log what was counted, and begin anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ends = 0.0
        counted, self._counts = Counter({kind: count for kind, count in self._counts.items() if count > 0}), {}
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

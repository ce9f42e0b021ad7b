"""Bounds on the log lines of each kind."""

import asyncio
import logging
import time
from collections import Counter
from typing import Final

from sandboxd.log.fields import ATTRIBUTE, fields

GUEST_LINES_PER_S: Final = 50.0
GUEST_BYTES_PER_S: Final = 64.0 * 1024
BURST_S: Final = 5.0
"""The limits of a `Budget`. The bytes of a line are estimated."""
LINE_BYTES: Final = 400
"""Estimated bytes of a line without the text that guests or callers choose."""
SUMMARY_S: Final = 1.0
"""Seconds between two lines that report how many lines were left out."""

dropped_lines: Final[Counter[tuple[str, str]]] = Counter()
"""Number of lines left out of this process's log, by (source, binding)."""
KIND_LINES_PER_S: Final = 200.0
KIND_BYTES_PER_S: Final = 256.0 * 1024
"""The limits of what one place in the code logs of one binding, whether it has a `Budget` or not."""
MAX_KINDS: Final = 4096
"""Kinds of lines that are told apart. The rest shares one bucket: some names come from callers."""
KINDS: Final = "lines of one kind"
"""The source under which they are counted in `dropped_lines`."""


class Budget:
    """Bounds the lines of one kind that guests or callers can cause. Each binding has a bucket of lines and bytes.

    It belongs to the event loop on which it is first used. Lines that are left out are counted in `dropped_lines` and
    reported in one line a second.

    Parameters:
        source: the kind of line, for the metric and the report.
        lines_per_s, bytes_per_s: the long-term rates of one binding.
        burst_s: after a silence, the lines and bytes of this many seconds may be logged at once.
    """

    def __init__(
        self,
        source: str,
        *,
        lines_per_s: float = GUEST_LINES_PER_S,
        bytes_per_s: float = GUEST_BYTES_PER_S,
        burst_s: float = BURST_S,
    ) -> None:
        self._source = source
        self._lines_per_s = lines_per_s
        self._bytes_per_s = bytes_per_s
        self._burst_s = burst_s
        self._buckets: dict[str, tuple[float, float, float]] = {}
        self._unsaid: Counter[str] = Counter()
        self._said = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Budget for {self._source} of {len(self._buckets)} bindings>"

    def admits(self, binding: str, text: str = "") -> bool:
        """Return whether a line may be logged now. If not, the line is counted as left out.

        Parameters:
            binding: a configured name, or empty.
            text: the part of the line whose length guests or callers choose.
        """
        # An escaped character takes six bytes of JSON, or twelve beyond U+FFFF, where it takes four of UTF-8 already.
        size = LINE_BYTES + len(text) * (1 if text.isascii() and text.isprintable() else 6)
        now = time.monotonic()
        lines, left = self._left(binding, now)
        if lines >= 1 and left >= size:
            self._buckets[binding] = (lines - 1, left - size, now)
            return True
        self._buckets[binding] = (lines, left, now)
        self.drop(binding, 1)
        return False

    def spent(self, binding: str) -> bool:
        """Return whether no line may be logged now, however short. If so, a line is counted as left out.

        It costs less than `admits`, and needs no text.
        """
        bucket = self._buckets.get(binding)
        if bucket is None or bucket[0] + (time.monotonic() - bucket[2]) * self._lines_per_s >= 1:
            return False
        self.drop(binding, 1)
        return True

    def _left(self, binding: str, now: float) -> tuple[float, float]:
        """Return the lines and bytes that may be logged now."""
        most_lines, most_bytes = self._lines_per_s * self._burst_s, self._bytes_per_s * self._burst_s
        bucket = self._buckets.get(binding)
        if bucket is None:
            return most_lines, most_bytes
        lines, left, since = bucket
        passed = now - since
        return min(most_lines, lines + passed * self._lines_per_s), min(most_bytes, left + passed * self._bytes_per_s)

    def drop(self, binding: str, count: int) -> None:
        """Count lines that are left out, without calling `admits` for each."""
        dropped_lines[self._source, binding] += count
        self._unsaid[binding] += count
        now = time.monotonic()
        if now - self._said >= SUMMARY_S:
            self._say()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._said + SUMMARY_S - now, self._say)

    def _say(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._said = time.monotonic()
        most, _ = self._unsaid.most_common(1)[0]
        logging.getLogger("sandboxd.log").warning(
            "lines were left out of the log (%s): too many in too short a time; most of binding %s",
            self._source,
            most or "none",
            extra=fields(event="lines_dropped", count=self._unsaid.total(), binding=most, reason=self._source),
        )
        self._unsaid.clear()


class KindLimits:
    """The last bound of the log: no kind of line fills a disk, also one whose writer thought it could not be frequent.

    A kind is a place in the code and a binding. Lines for debugging are exempt: who asks for them wants all.
    """

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, int, str], list[float]] = {}
        """Kind -> lines and bytes left, and the instant at which that was so."""

    def __repr__(self) -> str:
        return f"<KindLimits of {len(self._buckets)} kinds>"

    def admits(self, record: logging.LogRecord) -> list[float] | None:
        """Return the bucket that the line's bytes are to be taken from with `take`; None if there is no room for it.

        Parameters:
            record: of the line.
        """
        binding = getattr(record, ATTRIBUTE, {}).get("binding") or ""
        kind = (record.pathname, record.lineno, binding)
        if kind not in self._buckets and len(self._buckets) >= MAX_KINDS:
            kind = ("", 0, "")
        now = time.monotonic()
        most = (KIND_LINES_PER_S * BURST_S, KIND_BYTES_PER_S * BURST_S)
        bucket = self._buckets.setdefault(kind, [*most, now])
        passed = now - bucket[2]
        bucket[:] = (
            min(most[0], bucket[0] + passed * KIND_LINES_PER_S),
            min(most[1], bucket[1] + passed * KIND_BYTES_PER_S),
            now,
        )
        if record.levelno == logging.DEBUG or (bucket[0] >= 1 and bucket[1] > 0):
            return bucket
        return None

    @staticmethod
    def take(bucket: list[float], size: int) -> None:
        """Count a line of so many bytes. It may overdraw what is left of them, which the next ones wait for."""
        bucket[0] -= 1
        bucket[1] -= size

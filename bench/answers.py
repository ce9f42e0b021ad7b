"""The answers of the benchmarks about failures and overload, and their statistics."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

CLOSED = 0
"""The status of a request whose connection ended before its answer was complete."""
SILENT = -1
"""The status of a request that was not answered in time."""

_REASONS = (
    "the worker process was lost",
    "no worker is free and too many requests are waiting already",
    "no worker became free in time",
    "the server is shutting down",
    "module closed with context deadline exceeded",
    "module closed with context canceled",
    "module closed with exit_code",
    "couldn't find output binding",
    "does not support operation",
    "operation field is missing",
    "failed deserializing HTTP body",
    "is still loading",
    "stdout",
    "memory",
    "wasm error",
)


@dataclass(slots=True)
class Answer:
    """The fate of one request. Instants are CLOCK_MONOTONIC nanoseconds."""

    kind: str
    """The name of the request."""
    due_ns: int
    """The instant at which it was to be sent."""
    sent_ns: int = 0
    done_ns: int = 0
    status: int = SILENT
    retry_after: str = ""
    body: bytes = b""
    """The beginning of the answer's body."""
    left: bool = False
    """Whether the benchmark hung up on purpose."""

    @property
    def latency_ms(self) -> float:
        """The time from its due instant to the last byte of its answer, in milliseconds."""
        return (self.done_ns - self.due_ns) / 1e6

    @property
    def answered_ms(self) -> float:
        """The time from its sending to the last byte of its answer, in milliseconds."""
        return (self.done_ns - self.sent_ns) / 1e6

    @property
    def cause(self) -> str:
        """Its end in a few words, for a table."""
        if self.left:
            return "caller hung up"
        if self.status in (200, CLOSED, SILENT):
            return {200: "200", CLOSED: "connection closed", SILENT: "never answered"}[self.status]
        try:
            message = str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError):
            message = self.body.decode("utf-8", "replace")
        return f"{self.status} " + next((text for text in _REASONS if text in message), message[:60])


def quantiles(values: Iterable[float], *which: float) -> list[float]:
    """Return quantiles (nearest rank); 0 if there are no values.

    Parameters:
        values: the values.
        which: the quantiles, 0 to 1.
    """
    ordered = sorted(values)
    return [round(ordered[max(0, math.ceil(q * len(ordered)) - 1)], 3) if ordered else 0.0 for q in which]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum."""
    return dict(zip(("p50", "p99", "max"), quantiles(values, 0.5, 0.99, 1.0), strict=True))


def tally(answers: Iterable[Answer]) -> dict[str, int]:
    """Return the number of requests by their end, the most frequent first."""
    counts: dict[str, int] = {}
    for answer in answers:
        cause = answer.cause
        counts[cause] = counts.get(cause, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def unanswered(counts: Mapping[str, int]) -> int:
    """Return the number of requests without an answer in a `tally`, those whose connection closed included."""
    return counts.get("never answered", 0) + counts.get("connection closed", 0)

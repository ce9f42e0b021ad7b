"""The counts of one binding since the start, summed up for people."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sandboxd.metrics import BindingMetrics
from sandboxd.outcome import Outcome

NOT_FAILURES = frozenset(
    (Outcome.COMPLETED, Outcome.BAD_REQUEST, Outcome.NOT_FOUND, Outcome.UNAUTHORIZED, Outcome.CANCELLED)
)
"""The outcomes that are not failures of a binding or of the server."""


@dataclass(frozen=True, slots=True)
class Count:
    """The counts from which rates and quantiles are computed."""

    requests: int = 0
    failed: int = 0
    durations: Sequence[int] = field(default=(), repr=False)
    """The number of completed requests in each bucket of their durations."""
    cpu_s: float = 0.0
    """The processor time of the guest's runs, in seconds."""


def count(metrics: BindingMetrics) -> Count:
    """Return the present counts of a binding."""
    total = failed = 0.0
    for counters in metrics.requests_by_protocol():
        for outcome, counter in counters.items():
            if counter.value:
                total += counter.value
                if outcome not in NOT_FAILURES:
                    failed += counter.value
    return Count(int(total), int(failed), tuple(metrics.completed_buckets()), metrics.cpu_s)


def outcomes(metrics: BindingMetrics) -> dict[str, int]:
    """Return the number of requests by outcome, over all protocols."""
    found: dict[str, int] = {}
    for counters in metrics.requests_by_protocol():
        for outcome, counter in counters.items():
            if counter.value:
                found[outcome.value] = found.get(outcome.value, 0) + int(counter.value)
    return found

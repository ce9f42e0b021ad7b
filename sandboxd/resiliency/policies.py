"""The policies of one binding, and the pauses between the attempts of a request.

Sources: dapr pkg/resiliency/resiliency.go, dapr/kit retry/retry.go (defaults), cenkalti/backoff v4 exponential.go and
tries.go.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sandboxd.resiliency.breaker import BreakerSettings

INITIAL_INTERVAL_NS: Final = 500_000_000
RANDOMIZATION: Final = 0.5
MULTIPLIER: Final = 1.5
MAX_ELAPSED_NS: Final = 900_000_000_000
"""What Dapr's exponential retries have and no resource can change."""

_random = random.Random().random  # noqa: S311 - it spreads retries, and protects nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """How a failed attempt is repeated."""

    exponential: bool = False
    duration_ns: int = 5_000_000_000
    """The pause of a constant policy."""
    max_interval_ns: int = 60_000_000_000
    """What the interval of an exponential policy grows to. A pause is up to half as long again."""
    max_retries: int = -1
    """The most attempts after the first one; negative means without end."""

    def pauses(self, elapsed_ns: Callable[[], int], chance: Callable[[], float] = _random) -> Iterator[int]:
        """Yield the pause before each further attempt, in nanoseconds. The end means that none is made.

        Parameters:
            elapsed_ns: returns the time since the first attempt began.
            chance: returns a number from 0 up to, and without, 1.
        """
        interval = float(INITIAL_INTERVAL_NS)
        done = 0
        while self.max_retries < 0 or done < self.max_retries:
            done += 1
            if not self.exponential:
                yield self.duration_ns
                continue
            low = interval * (1 - RANDOMIZATION)
            pause = int(low + chance() * (2 * RANDOMIZATION * interval + 1))
            if interval >= self.max_interval_ns / MULTIPLIER:
                interval = float(self.max_interval_ns)
            else:
                interval *= MULTIPLIER
            if elapsed_ns() + pause > MAX_ELAPSED_NS:
                return
            yield pause


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What is done about failures of one binding."""

    timeout_ns: int = 0
    """The time of each attempt; 0 sets none beside the binding's own limit."""
    retry: Retry | None = None
    breaker: BreakerSettings | None = None

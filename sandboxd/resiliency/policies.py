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
"""Dapr's values for exponential retries. No resource can change them."""

_random = random.Random().random  # noqa: S311 - it spreads retries, and protects nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """A retry policy: how often, and after which pauses, a failed attempt is repeated."""

    exponential: bool = False
    duration_ns: int = 5_000_000_000
    """The pause of a constant policy."""
    max_interval_ns: int = 60_000_000_000
    """The longest interval of an exponential policy. A pause is up to half as long again."""
    max_retries: int = -1
    """The most attempts after the first one; negative for no limit."""

    def pauses(self, elapsed_ns: Callable[[], int], chance: Callable[[], float] = _random) -> Iterator[int]:
        """Yield the pause before each further attempt, in nanoseconds. After the last one, no attempt is made.

        Parameters:
            elapsed_ns: returns the time since the first attempt began.
            chance: returns a random number, at least 0 and less than 1.
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
    """The resiliency policies of one binding."""

    timeout_ns: int = 0
    """The timeout of each attempt; 0 for none beside the binding's own."""
    retry: Retry | None = None
    breaker: BreakerSettings | None = None

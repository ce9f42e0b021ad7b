"""A circuit breaker, which refuses calls for a while after too many have failed.

Source: sony/gobreaker v0.5.0, which Dapr uses (dapr pkg/resiliency/breaker/circuitbreaker.go). The one addition is
`forget`: a call that says nothing about the binding, such as one whose caller has left, is not counted.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final

from sandboxd.resiliency.trip import Trip

DEFAULT_TIMEOUT_NS: Final = 60_000_000_000
DEFAULT_FAILURES: Final = 5
"""Without `trip`, the breaker opens after more failures in a row than this."""

OPEN: Final = "circuit breaker is open"
TOO_MANY: Final = "too many requests"
"""The texts of gobreaker's two errors."""


class State(IntEnum):
    """The states of a breaker. The values are those of Dapr's metric."""

    CLOSED = 0
    """All calls pass, and their failures are counted."""
    HALF_OPEN = 1
    """Some calls pass. If they succeed, the breaker closes. The first failure opens it again."""
    OPEN = 2
    """No call passes."""

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerSettings:
    """The settings of a circuit breaker."""

    name: str
    max_requests: int = 1
    """The number of calls that pass while it is half open. As many successes close it."""
    interval_ns: int = 0
    """The time after which the counts are reset while it is closed; 0 means never."""
    timeout_ns: int = DEFAULT_TIMEOUT_NS
    """The time for which it stays open."""
    trip: Trip | None = None
    """The condition that opens it; None means more than DEFAULT_FAILURES failures in a row."""


@dataclass(slots=True)
class Counts:
    """The counts that `trip` can use. Each change of the state resets them."""

    requests: int = 0
    total_successes: int = 0
    total_failures: int = 0
    consecutive_successes: int = 0
    consecutive_failures: int = 0

    def clear(self) -> None:
        """Set all counts to 0."""
        for field in fields(self):
            setattr(self, field.name, 0)


class BreakerError(Exception):
    """The breaker refused a call. The message is for the caller."""


class Breaker:
    """A circuit breaker.

    Parameters:
        name: its name in `repr`.
        settings: its settings.
        changed: called with the former and the new state.
        clock: returns a monotonic time in nanoseconds.
    """

    def __init__(
        self,
        name: str,
        settings: BreakerSettings,
        changed: Callable[[State, State], None] = lambda _before, _after: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self.settings = settings
        self._changed = changed
        self._clock = clock
        self._state = State.CLOSED
        self._generation = 0
        self._counts = Counts()
        self._expiry_ns = 0
        self._begin(clock())

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {self._state}>"

    @property
    def state(self) -> State:
        """The state at this moment."""
        self._advance(self._clock())
        return self._state

    def enter(self) -> int:
        """Let a call pass.

        Returns:
            a token for `leave` or `forget`, one of which must follow.

        Raises:
            BreakerError: the breaker is open, or it is half open and `max_requests` calls have passed.
        """
        self._advance(self._clock())
        if self._state is State.OPEN:
            raise BreakerError(OPEN)
        if self._state is State.HALF_OPEN and self._counts.requests >= self.settings.max_requests:
            raise BreakerError(TOO_MANY)
        self._counts.requests += 1
        return self._generation

    def leave(self, token: int, *, ok: bool) -> None:
        """Count the end of a call. Calls that began before the latest change of the state are not counted.

        Parameters:
            token: the token that `enter` returned.
            ok: whether the call succeeded.
        """
        now = self._clock()
        self._advance(now)
        if token != self._generation:
            return
        counts = self._counts
        if ok:
            counts.total_successes += 1
            counts.consecutive_successes += 1
            counts.consecutive_failures = 0
            if self._state is State.HALF_OPEN and counts.consecutive_successes >= self.settings.max_requests:
                self._turn(State.CLOSED, now)
        elif self._state is State.HALF_OPEN:
            self._turn(State.OPEN, now)
        else:
            counts.total_failures += 1
            counts.consecutive_failures += 1
            counts.consecutive_successes = 0
            if self._trips():
                self._turn(State.OPEN, now)

    def forget(self, token: int) -> None:
        """Remove from the counts a call that says nothing about the binding."""
        if token == self._generation:
            self._counts.requests -= 1

    def _trips(self) -> bool:
        trip = self.settings.trip
        if trip is None:
            return self._counts.consecutive_failures > DEFAULT_FAILURES
        counts = self._counts
        return trip.holds(
            {
                "requests": counts.requests,
                "totalSuccesses": counts.total_successes,
                "totalFailures": counts.total_failures,
                "consecutiveSuccesses": counts.consecutive_successes,
                "consecutiveFailures": counts.consecutive_failures,
            }
        )

    def _advance(self, now: int) -> None:
        if not self._expiry_ns or now <= self._expiry_ns:
            return
        if self._state is State.OPEN:
            self._turn(State.HALF_OPEN, now)
        else:
            self._begin(now)

    def _turn(self, state: State, now: int) -> None:
        before, self._state = self._state, state
        self._begin(now)
        self._changed(before, state)

    def _begin(self, now: int) -> None:
        self._generation += 1
        self._counts.clear()
        if self._state is State.CLOSED:
            self._expiry_ns = now + self.settings.interval_ns if self.settings.interval_ns else 0
        else:
            self._expiry_ns = now + self.settings.timeout_ns if self._state is State.OPEN else 0

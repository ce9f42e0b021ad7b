"""Applies Dapr's resiliency policies to the requests of one binding: a timeout for each attempt, retries, a breaker.

Source: dapr pkg/resiliency/policy.go, NewRunnerWithOptions: the retries are outside, then the breaker, then the
timeout. Only requests that run a guest come here: one that is refused before fails once, whatever the policy.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from sandboxd.components.binding import Binding
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.outcomes import failure
from sandboxd.front.ports import Attempt
from sandboxd.limits.units import format_duration_ms
from sandboxd.log import Budget, fields
from sandboxd.metrics import BindingMetrics, Metrics
from sandboxd.outcome import Outcome
from sandboxd.resiliency import Breaker, BreakerError, Policy, State
from sandboxd.wire.messages import Call, Result

log = logging.getLogger("sandboxd.resiliency")

MAX_PAUSED: Final = 1000
"""The most requests of one binding that wait for their next attempt: each holds its input in memory."""

_TELLING: Final = frozenset(
    (
        Outcome.EXIT_NONZERO,
        Outcome.TRAPPED,
        Outcome.DEADLINE_EXCEEDED,
        Outcome.MEMORY_EXCEEDED,
        Outcome.OUTPUT_EXCEEDED,
        Outcome.WORKER_LOST,
        Outcome.HOST_FAILED,
    )
)
"""The outcomes that tell that the binding fails. A refusal for lack of workers tells of the server's load, which more
attempts would only raise."""

_LINES: Final = Budget("retries")


class Guard:
    """The policies of one binding, and the state that its requests share.

    Parameters:
        name: of the binding.
        policy: what is configured.
        breaker: the circuit breaker; None if the policy has none.
        metrics: of the binding.
    """

    def __init__(self, name: str, policy: Policy, breaker: Breaker | None, metrics: BindingMetrics) -> None:
        self._name = name
        self._policy = policy
        self._breaker = breaker
        self._metrics = metrics
        self._paused = 0

    def __repr__(self) -> str:
        return f"<Guard of {self._name} {self._policy}>"

    async def run(self, call: Call, attempt: Attempt, *, hurried: bool = False) -> Result:
        """See `sandboxd.front.ports.Guard`."""
        retry = self._policy.retry
        if retry is None:
            return await self._once(call, attempt, hurried=hurried)
        began = time.monotonic_ns()
        pauses = retry.pauses(lambda: time.monotonic_ns() - began)
        attempts = 0
        while True:
            attempts += 1
            try:
                result = await self._once(call, attempt, hurried=hurried)
            except Failure as failed:
                pause_ns = next(pauses, None) if failed.outcome in _TELLING else None
                if pause_ns is None or not self._time_for(pause_ns, call):
                    raise
                if attempts == 1:
                    self._log_retry(pause_ns, failed)
                self._metrics.retried()
                await self._pause(pause_ns)
            else:
                if attempts > 1:
                    self._log_recovery(attempts)
                return result

    def _time_for(self, pause_ns: int, call: Call) -> bool:
        """Return whether there is time for another attempt, and room to wait for it."""
        return self._paused < MAX_PAUSED and time.monotonic_ns() + pause_ns < call.deadline_ns

    async def _pause(self, pause_ns: int) -> None:
        self._paused += 1
        try:
            await asyncio.sleep(pause_ns * 1e-9)
        finally:
            self._paused -= 1

    async def _once(self, call: Call, attempt: Attempt, *, hurried: bool) -> Result:
        breaker = self._breaker
        if breaker is None:
            return await self._timed(call, attempt)
        try:
            token = breaker.enter()
        except BreakerError as error:
            raise Failure(Outcome.CIRCUIT_OPEN, failure(self._name, str(error))) from None
        try:
            result = await self._timed(call, attempt)
        except Failure as failed:
            theirs = hurried and failed.outcome is Outcome.DEADLINE_EXCEEDED and time.monotonic_ns() >= call.deadline_ns
            if failed.outcome in _TELLING and not theirs:
                breaker.leave(token, ok=False)
            else:
                breaker.forget(token)
            raise
        except BaseException:
            # The caller has gone.
            breaker.forget(token)
            raise
        breaker.leave(token, ok=True)
        return result

    async def _timed(self, call: Call, attempt: Attempt) -> Result:
        timeout_ns = self._policy.timeout_ns
        due = time.monotonic_ns() + timeout_ns
        if not timeout_ns or due >= call.deadline_ns:
            return await attempt(call, False)
        try:
            return await attempt(msgspec.structs.replace(call, deadline_ns=due), True)
        except Failure as failed:
            if failed.outcome is not Outcome.DEADLINE_EXCEEDED:
                raise
            self._metrics.timed_out()
            detail = f"the timeout of its resiliency policy is {_shown(timeout_ns)}"
            text = failure(self._name, "context deadline exceeded")
            raise Failure(Outcome.DEADLINE_EXCEEDED, text, detail=detail) from None

    def _log_retry(self, pause_ns: int, failed: Failure) -> None:
        if log.isEnabledFor(logging.WARNING) and _LINES.admits(self._name, "retry"):
            log.warning(
                "Error processing operation component[%s] output. Retrying in %s…",
                self._name,
                _shown(pause_ns),
                extra=fields(event="retry", binding=self._name, outcome=failed.outcome.value, reason=failed.reason()),
            )

    def _log_recovery(self, attempts: int) -> None:
        if log.isEnabledFor(logging.INFO) and _LINES.admits(self._name, "recovered"):
            log.info(
                "Recovered processing operation component[%s] output after %d attempts",
                self._name,
                attempts,
                extra=fields(event="recovered", binding=self._name),
            )


class Guards:
    """Makes the guards of a server. A circuit breaker outlives reloads that leave its settings as they were.

    Parameters:
        clock: of the breakers, in nanoseconds; it never goes back.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    def __repr__(self) -> str:
        return f"<Guards with {len(self._breakers)} breakers>"

    def of(self, bindings: Iterable[Binding], metrics: Metrics) -> dict[str, Guard]:
        """Return a guard for each binding that has a policy.

        Parameters:
            bindings: those that are served from now on.
            metrics: of the server.
        """
        former, self._breakers = self._breakers, {}
        guards = {}
        for binding in bindings:
            if binding.policy is not None:
                breaker = self._breaker(binding.name, binding.policy, former.get(binding.name))
                if breaker is not None:
                    self._breakers[binding.name] = breaker
                guards[binding.name] = Guard(binding.name, binding.policy, breaker, metrics.binding(binding.name))
        metrics.watch_breakers(self._breakers)
        return guards

    def _breaker(self, name: str, policy: Policy, former: Breaker | None) -> Breaker | None:
        settings = policy.breaker
        if settings is None or (former is not None and former.settings == settings):
            return None if settings is None else former
        shown = f"{settings.name}-{name}"

        def changed(before: State, after: State) -> None:
            if _LINES.admits(name, "breaker"):
                log.warning(
                    'Circuit breaker "%s" changed state from %s to %s',
                    shown,
                    before,
                    after,
                    extra=fields(event="circuit_breaker", binding=name),
                )

        return Breaker(shown, settings, changed, self._clock)


def _shown(duration_ns: int) -> str:
    return format_duration_ms(-(-duration_ns // 1_000_000))

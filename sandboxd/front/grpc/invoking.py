"""Runs guests for calls over gRPC, whichever service they come by, and counts and logs how they end."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

from sandboxd.front.answering.attempt import attempt
from sandboxd.front.answering.deciding import addressed, decide
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.runlog import keep_failure, log_failed_request, log_run
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.ports import Invoker, Served
from sandboxd.limits.keys import BODY_KEY
from sandboxd.metrics import GRPC, BindingMetrics, Metrics
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Call, Result

log = logging.getLogger("sandboxd.request")

MAX_METADATA: Final = 4096
"""The most entries of a request's metadata: to look at each takes the event loop's time."""


@dataclass(slots=True)
class Asked:
    """What a call asks for."""

    name: str
    """Of the binding, as the caller wrote it."""
    operation: str
    metadata: dict[str, str]
    data: bytes
    """Standard input, or the body for a guest that handles HTTP."""
    began: int
    """CLOCK_MONOTONIC instant at which the call came."""
    remaining_s: float | None
    """Seconds until the caller's deadline; None for no deadline."""

    @property
    def seconds(self) -> float:
        """How long ago the call came."""
        return (time.monotonic_ns() - self.began) * 1e-9


class Invocations:
    """See the module.

    Parameters:
        invoker: runs guests.
        metrics: where requests are counted.
    """

    def __init__(self, invoker: Invoker, metrics: Metrics) -> None:
        self._invoker = invoker
        self._unnamed = metrics.binding("")
        self._dapr = metrics.dapr is not None

    def __repr__(self) -> str:
        return "<Invocations>"

    async def run(self, asked: Asked, served: Served | None, *, loading: bool) -> tuple[Result, Served, str]:
        """Run a guest once.

        Parameters:
            asked: the call.
            served: the binding; None if there is none of that name.
            loading: nothing was loaded yet.

        Returns:
            the result of a guest that succeeded, its binding, and the traceparent of the run. `completed` or
            `too_long` is to be called next.

        Raises:
            Failure: the call failed, which is counted and logged.
            CancelledError: the caller has gone, or its deadline has passed.
        """
        metrics = served.metrics if served is not None else self._unnamed
        metadata = asked.metadata
        parent = metadata.get("traceparent", "").encode()
        span = new_span(parent or None)
        # A program hears of a trace only where its caller is in one: Dapr sets no variable at all.
        told = parent != b"" and span[3:35].encode() in parent
        if not told:
            metadata.pop("tracestate", None)
        try:
            if len(metadata) > MAX_METADATA:
                text = f"invalid request metadata: {len(metadata)} entries; at most {MAX_METADATA} are allowed"
                raise Failure(Outcome.BAD_REQUEST, text)
            decided = time.monotonic_ns()
            try:
                served = addressed(served, asked.name, asked.operation, loading=loading)
                result = await self._run(served, asked, span, told, decided)
            except Failure:
                if self._dapr:
                    self._event(metrics, asked.operation, decided, success=False)
                raise
            if self._dapr:
                self._event(metrics, asked.operation, decided, success=True)
        except Failure as failed:
            failed.span = span
            metrics.ended_grpc(failed.outcome, asked.seconds)
            keep_failure(metrics, failed, span, asked.began, GRPC)
            log_failed_request(failed, served, span, status=failed.grpc, seconds=asked.seconds)
            raise
        except asyncio.CancelledError:
            metrics.ended_grpc(Outcome.CANCELLED, asked.seconds)
            raise
        return result, served, span

    def completed(self, asked: Asked, served: Served, result: Result, span: str) -> None:
        """Count and log a call that is answered with what its guest wrote."""
        served.metrics.ended_grpc(Outcome.COMPLETED, asked.seconds)
        if log.isEnabledFor(logging.DEBUG):
            log_run(logging.DEBUG, served, result, span, asked.began)

    def too_long(self, asked: Asked, served: Served) -> None:
        """Count a call whose answer is longer than a message may be."""
        served.metrics.limit_reached(BODY_KEY)
        served.metrics.ended_grpc(Outcome.OUTPUT_EXCEEDED, asked.seconds)

    async def _run(self, served: Served, asked: Asked, span: str, told: bool, decided: int) -> Result:
        name, data = asked.name, asked.data
        deadline = asked.began + served.timeout_ns
        if asked.remaining_s is not None:
            deadline = min(deadline, decided + int(asked.remaining_s * 1e9))
        call = decide(served, name, asked.operation, asked.metadata, data, span.encode(), deadline, told=told)
        hurried = deadline < asked.began + served.timeout_ns

        async def once(call: Call, by_policy: bool) -> Result:
            return await attempt(self._invoker, served, call, span, asked.began, by_policy=by_policy)

        try:
            if served.guard is not None:
                return await served.guard.run(call, once, hurried=hurried)
            return await once(call, False)
        except Failure as failed:
            if failed.outcome is Outcome.DEADLINE_EXCEEDED and hurried and time.monotonic_ns() >= deadline:
                # It was the caller's deadline, which the caller has not noticed yet.
                raise Failure(Outcome.DEADLINE_EXCEEDED, "Deadline Exceeded", grpc="DEADLINE_EXCEEDED") from None
            raise

    def _event(self, metrics: BindingMetrics, operation: str, decided: int, *, success: bool) -> None:
        metrics.dapr_event(operation, success=success, seconds=(time.monotonic_ns() - decided) * 1e-9)

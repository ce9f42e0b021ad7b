"""Runs guests for calls over gRPC, whichever service they come by, and counts and logs how they end.

Nothing here waits: the pool gives a result to a callback. Only the policies of a binding that is guarded are awaited,
in a task.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sandboxd.front.answering import failures
from sandboxd.front.answering.attempt import attempt
from sandboxd.front.answering.deciding import addressed, decide, failure_of
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.runlog import keep_failure, log_failed_request, log_run
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.ports import Invoked, Invoker, Served
from sandboxd.limits.keys import BODY_KEY
from sandboxd.log import fields
from sandboxd.metrics import GRPC, BindingMetrics, Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
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
    """Seconds from then to the caller's deadline; None for no deadline."""


class Invocations:
    """What the invocations of a service have in common.

    Parameters:
        invoker: runs guests.
        metrics: where requests are counted.
    """

    def __init__(self, invoker: Invoker, metrics: Metrics) -> None:
        self.invoker = invoker
        self.unnamed = metrics.binding("")
        self.counts_dapr = metrics.dapr is not None
        """Whether daprd's metrics are counted, too."""

    def __repr__(self) -> str:
        return "<Invocations>"

    def begin(
        self,
        asked: Asked,
        served: Served | None,
        ended: "Callable[[Invocation, Result | Failure], None]",
        *,
        loading: bool = False,
    ) -> "Invocation":
        """Begin to run a guest once, or as often as the binding's resiliency policy wants.

        Parameters:
            asked: the call.
            served: the binding; None if there is none of that name.
            ended: called once, before this returns or later, but not after `abandon`. It takes the result of a guest
                that succeeded, after which `completed` or `too_long` is to be called; or the failure, which is counted
                and logged.
            loading: nothing was loaded yet.
        """
        invocation = Invocation(self, asked, served, ended)
        invocation.begin(loading=loading)
        return invocation


class Invocation:
    """One of them.

    Parameters:
        of: see `Invocations`.
        asked, served, ended: see `Invocations.begin`.
    """

    __slots__ = ("_decided", "_ended", "_invoked", "_number", "_of", "_over", "_task", "asked", "served", "span")

    def __init__(
        self,
        of: Invocations,
        asked: Asked,
        served: Served | None,
        ended: "Callable[[Invocation, Result | Failure], None]",
    ) -> None:
        self._of = of
        self.asked = asked
        self.served = served
        self._ended = ended
        self.span = ""
        """The traceparent of the run."""
        self._decided = 0
        self._number = 0
        self._invoked: Invoked | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"<Invocation of {self.asked.name!r} {self.span[36:52]}>"

    @property
    def _metrics(self) -> BindingMetrics:
        return self._of.unnamed if self.served is None else self.served.metrics

    # the way in -------------------------------------------------------------------------------------------------------

    def begin(self, *, loading: bool) -> None:
        """See `Invocations.begin`."""
        asked = self.asked
        metadata = asked.metadata
        parent = metadata.get("traceparent")
        if parent:
            header = parent.encode()
            self.span = span = new_span(header)
            # A program hears of a trace only where its caller is in one: Dapr sets no variable at all.
            told = span[3:35].encode() in header
        else:
            self.span = span = new_span(None)
            told = False
        if not told:
            metadata.pop("tracestate", None)
        if len(metadata) > MAX_METADATA:
            text = f"invalid request metadata: {len(metadata)} entries; at most {MAX_METADATA} are allowed"
            self._fail(Failure(Outcome.BAD_REQUEST, text))
            return
        self._decided = time.monotonic_ns()
        try:
            served = addressed(self.served, asked.name, asked.operation, loading=loading)
            deadline = asked.began + served.timeout_ns
            hurried = False
            if asked.remaining_s is not None:
                theirs = asked.began + int(asked.remaining_s * 1e9)
                hurried = theirs < deadline
                deadline = min(theirs, deadline)
            call = decide(served, asked.name, asked.operation, metadata, asked.data, span.encode(), deadline, told=told)
            if served.guard is not None:
                self._task = asyncio.get_running_loop().create_task(self._guarded(served, call, hurried=hurried))
                return
            served.runs = self._number = served.runs + 1
            self._invoked = self._of.invoker.begin(served.binding.name, call, self._receive)
        except Failure as failed:
            self._fail(failed)
        except Exception as error:  # noqa: BLE001 - each of them has an answer; what is unexpected is logged
            self._fail(self._error(error))

    async def _guarded(self, served: Served, call: Call, *, hurried: bool) -> None:
        async def once(call: Call, by_policy: bool) -> Result:
            invoker, began = self._of.invoker, self.asked.began
            return await attempt(invoker, served, call, self.span, began, by_policy=by_policy)

        assert served.guard is not None
        try:
            self._succeed(await served.guard.run(call, once, hurried=hurried))
        except Failure as failed:
            self._fail(failed)
        except Exception as error:  # noqa: BLE001 - logged there
            self._fail(self._error(error))

    # the way out ------------------------------------------------------------------------------------------------------

    def _receive(self, answer: Result | Exception) -> None:
        """Take the answer of the pool."""
        self._invoked = None
        if isinstance(answer, Result):
            served = self.served
            assert served is not None
            served.metrics.ran(answer, len(self.asked.data))
            failed = None
            if answer.outcome is not Outcome.COMPLETED or answer.stderr:
                failed = failure_of(answer, served, self._number, self.span, self.asked.began)
            if failed is None:
                self._succeed(answer)
            else:
                self._fail(failed)
        else:
            self._fail(answer if isinstance(answer, Failure) else self._error(answer))

    def _error(self, error: Exception) -> Failure:
        if not isinstance(error, Rejected | BindingUnavailable):
            values = fields(binding=self._metrics.name, request_id=self.span[36:52])
            log.error("invoking failed", exc_info=error, extra=values)
        return failures.of_error(error, self.asked.name)

    def _succeed(self, result: Result) -> None:
        self._over = True
        if self._of.counts_dapr:
            self._event(success=True)
        self._ended(self, result)

    def _fail(self, failed: Failure) -> None:
        self._over = True
        if failed.outcome is Outcome.DEADLINE_EXCEEDED and self._passed():
            # It was the caller's deadline, which the caller has not noticed yet.
            failed = Failure(Outcome.DEADLINE_EXCEEDED, "Deadline Exceeded", grpc="DEADLINE_EXCEEDED")
        if self._of.counts_dapr and self._decided:
            self._event(success=False)
        failed.span = self.span
        metrics, seconds = self._metrics, self.seconds
        metrics.ended_grpc(failed.outcome, seconds)
        keep_failure(metrics, failed, self.span, self.asked.began, GRPC)
        log_failed_request(failed, self.served, self.span, status=failed.grpc, seconds=seconds)
        self._ended(self, failed)

    def _passed(self) -> bool:
        """Return whether the caller's deadline has passed, and not that of the binding."""
        asked, served = self.asked, self.served
        if asked.remaining_s is None or served is None:
            return False
        theirs = asked.began + int(asked.remaining_s * 1e9)
        return theirs < asked.began + served.timeout_ns and time.monotonic_ns() >= theirs

    def abandon(self) -> None:
        """Cancel it: the caller has gone, or its deadline has passed."""
        if self._over:
            return
        self._over = True
        if self._invoked is not None:
            self._invoked.abandon()
        if self._task is not None:
            self._task.cancel()
        self._metrics.ended_grpc(Outcome.CANCELLED, self.seconds)

    @property
    def seconds(self) -> float:
        """How long ago the call came."""
        return (time.monotonic_ns() - self.asked.began) * 1e-9

    def completed(self, result: Result) -> None:
        """Count and log a call that is answered with what its guest wrote."""
        served = self.served
        assert served is not None
        served.metrics.ended_grpc(Outcome.COMPLETED, self.seconds)
        if log.isEnabledFor(logging.DEBUG):
            log_run(logging.DEBUG, served, result, self.span, self.asked.began)

    def too_long(self) -> None:
        """Count a call whose answer is longer than a message may be."""
        self._metrics.limit_reached(BODY_KEY)
        self._metrics.ended_grpc(Outcome.OUTPUT_EXCEEDED, self.seconds)

    def _event(self, *, success: bool) -> None:
        seconds = (time.monotonic_ns() - self._decided) * 1e-9
        self._metrics.dapr_event(self.asked.operation, success=success, seconds=seconds)

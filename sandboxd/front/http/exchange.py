"""A binding request over HTTP and its answer, step by step: what is decided, counted and logged, and in which order.

Nothing here waits, reads or writes. `binding` takes the steps for any ASGI server, `direct` within the calls of a
connection and of the pool.

The order of checks is Dapr's (pkg/api/http/http.go, onOutputBindingMessage; pkg/runtime/processor/binding/send.go,
sendToOutputBinding): body, baggage, operation, binding, operation supported, invocation.
"""

import logging
import time
from collections.abc import Iterable
from typing import Final

from sandboxd import gojson
from sandboxd.front.answering import failures, payload
from sandboxd.front.answering.deciding import OPERATION, addressed, decide, failure_of, unfit
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.http_guest import NO_DATA, response_metadata
from sandboxd.front.answering.runlog import keep_failure, log_run
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.http.failed import failure_laid, failure_reply
from sandboxd.front.http.replies import Laid, Reply
from sandboxd.front.ports import Headers, Served
from sandboxd.limits.keys import BODY_KEY
from sandboxd.limits.units import Unit
from sandboxd.log import fields
from sandboxd.metrics import BindingMetrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.wire.messages import Call, Result

log = logging.getLogger("sandboxd.request")

INLINE_BYTES: Final = 32 * 1024
"""Longer bodies are decoded in another process: the decoder may need a second for a hostile one. Bytes."""


class TooLarge(Failure):
    """The body is longer than the limit, and the part within the limit is not a complete request."""


Trace = tuple[bytes | None, bytes | None, bytes | None]
"""The trace context of a request, as its headers have it: the last traceparent, tracestate and baggage. Headers of the
latter two names are joined with commas."""


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> Trace:
    """Return the trace context that headers have. Their names are in lower case."""
    parent = state = baggage = None
    for name, value in headers:
        if name == b"traceparent":
            parent = value
        elif name == b"tracestate":
            state = value if state is None else state + b"," + value
        elif name == b"baggage":
            baggage = value if baggage is None else baggage + b"," + value
    return parent, state, baggage


class Exchange:
    """One binding request. Its methods are called in the order in which they stand here; a Failure leads to `failed`.

    Parameters:
        served: the binding; None if there is none of that name.
        name: the name in the request's path, unescaped.
        metrics: of the binding, or of requests that name none.
        trace: the trace context of the request.
        began_ns: CLOCK_MONOTONIC instant at which the request came.
        dapr: whether daprd's metrics are counted, too.
    """

    __slots__ = (
        "_dapr",
        "_decided_ns",
        "_metrics",
        "_name",
        "_number",
        "_stdin_bytes",
        "_trace",
        "began_ns",
        "request",
        "served",
        "span",
    )

    request: gojson.Request

    def __init__(
        self,
        served: Served | None,
        name: str,
        metrics: BindingMetrics,
        trace: Trace,
        began_ns: int,
        dapr: bool = False,
    ) -> None:
        self.served = served
        self._name = name
        self._metrics = metrics
        self.began_ns = began_ns
        self._dapr = dapr
        self._trace = trace
        self.span = new_span(trace[0])
        """The traceparent of the answer."""
        self._decided_ns = 0
        self._number = 0
        self._stdin_bytes = 0

    def __repr__(self) -> str:
        return f"<Exchange for {self._name!r} {self.span[36:52]}>"

    def turned_away(self, rejected: Rejected) -> Failure:
        """Count a request that is refused at the gate, before it is decoded. Return the answer."""
        # The body, which names the operation, is not read.
        self._metrics.dapr_event("", success=False, seconds=0.0)
        return failures.of_refusal(rejected, self._name, counted=True)

    # the way in -------------------------------------------------------------------------------------------------------

    def decode(self, body: bytes, *, cut: int | None = None) -> None:
        """Decode the body, and convert `data` to the stdin kind that the request or the binding asks for.

        Parameters:
            body: of the request.
            cut: the limit at which a longer body was cut; None if it was not cut.

        Raises:
            Failure: the body is not a valid request.
        """
        try:
            request = gojson.decode(body, cut=cut is not None)
        except gojson.MalformedError as error:
            raise malformed(error, cut) from None
        served = self.served
        if served is not None and (served.converts_stdin or (request.metadata and payload.STDIN in request.metadata)):
            try:
                request = payload.converted(request, served.binding.stdin)
            except (payload.DataError, payload.KindError) as error:
                raise unfit(error) from None
        self.request = request

    def call(self, *, loading: bool = False) -> Call:
        """Return what the guest is called with.

        Parameters:
            loading: nothing was loaded yet.

        Raises:
            Failure: the request cannot be carried out.
        """
        request, served, trace = self.request, self.served, self.span.encode()
        if self._trace[1] is not None or self._trace[2] is not None:
            request = self.request = _with_trace(request, self._trace, self.span)
        if served is None or not request.operation:
            try:
                served = addressed(served, self._name, request.operation, loading=loading)
            except Failure:
                self._metrics.dapr_event(request.operation, success=False, seconds=0.0)
                raise
        if self._dapr:
            self._decided_ns = time.monotonic_ns()
        data = request.data
        if not served.is_program and data == NO_DATA:
            data = b""
        self._stdin_bytes = len(data)
        deadline_ns = self.began_ns + served.timeout_ns
        return decide(served, self._name, request.operation, request.metadata, data, trace, deadline_ns)

    # the way out ------------------------------------------------------------------------------------------------------

    def begun(self) -> None:
        """Count the invocation. Not called where a guard decides how often the guest runs."""
        assert self.served is not None
        self.served.runs = self._number = self.served.runs + 1

    def ran(self, result: Result) -> Failure | None:
        """Count the run of the guest that `begun` began. Return its failure; None if it succeeded."""
        served = self.served
        assert served is not None
        served.metrics.ran(result, self._stdin_bytes)
        if result.outcome is not Outcome.COMPLETED or result.stderr:
            return failure_of(result, served, self._number, self.span, self.began_ns)
        return None

    def error(self, error: Exception) -> Failure:
        """Return the answer for an invocation that raised."""
        if not isinstance(error, Rejected | BindingUnavailable):
            log.error(
                "invoking failed",
                exc_info=error,
                extra=fields(
                    binding="" if self.served is None else self.served.binding.name, request_id=self.span[36:52]
                ),
            )
        return failures.of_error(error, self._name)

    def completed(self, result: Result) -> None:
        """Count and log a request that is answered with what its guest wrote."""
        served = self.served
        assert served is not None
        if self._decided_ns:
            seconds = (time.monotonic_ns() - self._decided_ns) * 1e-9
            served.metrics.dapr_event(OPERATION, success=True, seconds=seconds)
        served.metrics.ended(Outcome.COMPLETED, (time.monotonic_ns() - self.began_ns) * 1e-9)
        if log.isEnabledFor(logging.DEBUG):
            log_run(logging.DEBUG, served, result, self.span, self.began_ns)

    def headers(self, result: Result, length: int) -> Headers:
        """Return the headers of the answer to a completed request.

        Parameters:
            result: of the guest.
            length: of the answer's body, in bytes.
        """
        served = self.served
        assert served is not None
        headers = [
            *served.success_headers,
            (b"content-length", b"%d" % length),
            (b"traceparent", self.span.encode()),
        ]
        if result.http is not None:
            headers += response_metadata(result.http)
        return headers

    def failed(self, failed: Failure, *, http1: bool) -> Reply:
        """Count and log a request that failed, and return its answer.

        Parameters:
            failed: why it failed.
            http1: whether it came over HTTP/1, where the rest of a body that nobody reads ends the connection.
        """
        self._count_failure(failed)
        return failure_reply(failed, self.served, self.span, self.began_ns, http1=http1)

    def failed_laid(self, failed: Failure) -> Laid:
        """As `failed`, for a guest that ran and failed, over HTTP/1.1."""
        self._count_failure(failed)
        return failure_laid(failed, self.served, self.span, self.began_ns)

    def _count_failure(self, failed: Failure) -> None:
        if self._decided_ns:
            seconds = (time.monotonic_ns() - self._decided_ns) * 1e-9
            self._metrics.dapr_event(self.request.operation, success=False, seconds=seconds)
        self._metrics.ended(failed.outcome, (time.monotonic_ns() - self.began_ns) * 1e-9)
        keep_failure(self._metrics, failed, self.span, self.began_ns)

    def left(self) -> None:
        """Count a request whose caller has gone."""
        self._metrics.ended(Outcome.CANCELLED, (time.monotonic_ns() - self.began_ns) * 1e-9)


def malformed(error: gojson.MalformedError, cut: int | None) -> Failure:
    """Return the answer for a body that is no binding request. Parameters as of `Exchange.decode`."""
    text = f"failed deserializing HTTP body: {error}"
    if cut is not None and isinstance(error, gojson.TooLargeError):
        # The message is exactly Dapr's. The detail adds what it does not say.
        detail = f"the request body is longer than {Unit.SIZE.show(cut)} ({BODY_KEY})"
        return TooLarge(Outcome.BAD_REQUEST, text, detail=detail)
    return Failure(Outcome.BAD_REQUEST, text)


def _with_trace(request: gojson.Request, trace: Trace, span: str) -> gojson.Request:
    """Return the request with those headers in its metadata that Dapr copies there.

    Parameters:
        trace: of the request.
        span: the answer's traceparent. A trace that cannot be continued has no state either.
    """
    parent, state, baggage = trace
    metadata = dict(request.metadata or {})
    if baggage is not None:
        metadata["baggage"] = baggage.decode("utf-8", "replace")
    if state is not None and parent and span[3:35].encode() in parent:
        metadata["tracestate"] = state.decode("utf-8", "replace")
    return request._replace(metadata=metadata)

"""`POST /v1.0/bindings/{name}`: the hot path, raw ASGI.

Order of checks as in Dapr (pkg/api/http/http.go, onOutputBindingMessage; pkg/runtime/processor/binding/send.go,
sendToOutputBinding): body, baggage, operation, binding, operation supported, invocation.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from sandboxd.front import gojson
from sandboxd.front.admission import Gate
from sandboxd.front.arguments import MetadataError, arguments, environment
from sandboxd.front.departures import GONE, Departures, Tell
from sandboxd.front.outcomes import INVOKE, MALFORMED, NO_WORKER, TABLE, failure, refusal, result_detail, result_message
from sandboxd.front.ports import Bindings, FrontSettings, Invoker, Message, Receive, Scope, Send, Served
from sandboxd.front.proxy import NO_DATA, http_request, response_metadata
from sandboxd.front.replies import JSON
from sandboxd.front.runlog import log_run, log_stderr
from sandboxd.front.tracing import baggage_fault, new_span
from sandboxd.limit_keys import BODY_KEY, Unit
from sandboxd.log import fields
from sandboxd.metrics import BindingMetrics, Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.wire.messages import Result

log = logging.getLogger("sandboxd.request")

INLINE_BYTES: Final = 32 * 1024
"""Longer bodies are decoded in a thread: a hostile one may take the decoder seconds."""
OPERATION: Final = "execute"
_TRACE_HEADERS: Final = frozenset((b"traceparent", b"tracestate", b"baggage"))


class _Failure(Exception):  # noqa: N818 - an answer on its way out, not an error of the program
    """The request is answered with an error."""

    def __init__(
        self,
        outcome: Outcome,
        status: int,
        code: str,
        message: str,
        *,
        detail: str = "",
        retry_after_s: int = 0,
        counted: bool = False,
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.status = status
        self.body = gojson.error_body(code, message, detail)
        self.code = code
        self.retry_after_s = retry_after_s
        self.counted = counted
        """It is in a line of the log that stands for many."""


class _TooLarge(_Failure):
    """The body goes on beyond the limit, and what is within it is no request."""


class _CallerGone(Exception):  # noqa: N818 - likewise
    """Nobody waits for the answer."""


class BindingEndpoint:
    """Answers binding requests.

    Parameters:
        settings: limits of requests.
        invoker: runs guests.
        metrics: where requests are counted.
    """

    def __init__(self, settings: FrontSettings, invoker: Invoker, metrics: Metrics) -> None:
        self.bindings = Bindings()
        """What is served. Assign another snapshot to change it; requests already begun keep theirs."""
        self._max_body = settings.max_body_bytes
        self._inline = min(INLINE_BYTES, settings.max_body_bytes)
        self._invoke = invoker.invoke
        self._gate = Gate(invoker)
        self._unnamed = metrics.binding("")
        self._dapr = metrics.dapr is not None
        self._departures = Departures()
        self._decoder = ThreadPoolExecutor(max_workers=2, thread_name_prefix="gojson")

    def __repr__(self) -> str:
        return f"<BindingEndpoint of {len(self.bindings.by_name)} bindings>"

    async def __call__(self, served: Served | None, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Parameters:
            served: the binding; None if there is none of that name.
            name: as the caller wrote it.
        """
        began = time.monotonic_ns()
        metrics = served.metrics if served is not None else self._unnamed
        parent = state = baggage = None
        for header, value in scope["headers"]:
            if header in _TRACE_HEADERS:
                if header == b"traceparent":
                    parent = value
                elif header == b"tracestate":
                    state = value if state is None else state + b"," + value
                else:
                    baggage = value if baggage is None else baggage + b"," + value
        span = new_span(parent)
        trace = span.encode()
        try:
            if served is not None and self._gate.shut(served.binding.name):
                await self._enter(served.binding.name)
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                body: bytes = message.get("body", b"")
            else:
                body = await self._whole_body(message, receive)
            if len(body) <= self._inline:
                request = _decode(body)
            else:
                request = await self._decode_large(body, metrics)
            if state is not None or baggage is not None:
                request = _with_trace(request, state if parent and trace[3:35] in parent else None, baggage)
            tell = scope["extensions"].get(GONE) if "extensions" in scope else None
            result = await self._run(served, name, request, trace, receive, tell)
        except _Failure as failed:
            self._record(metrics, failed.outcome, began)
            if not failed.counted and log.isEnabledFor(TABLE[failed.outcome].level):
                log.log(
                    TABLE[failed.outcome].level,
                    "request failed",
                    extra=fields(
                        binding=served.binding.name if served is not None else "",
                        outcome=failed.outcome.value,
                        request_id=span[36:52],
                        trace_id=span[3:35],
                        status=failed.status,
                        error_code=failed.code,
                        duration_ms=(time.monotonic_ns() - began) / 1e6,
                    ),
                )
            headers = [JSON, (b"content-length", b"%d" % len(failed.body)), (b"traceparent", trace)]
            if failed.retry_after_s:
                headers.append((b"retry-after", b"%d" % failed.retry_after_s))
            await send({"type": "http.response.start", "status": failed.status, "headers": headers})
            await send({"type": "http.response.body", "body": failed.body})
            return
        except (_CallerGone, asyncio.CancelledError) as ended:
            self._record(metrics, Outcome.CANCELLED, began)
            if isinstance(ended, asyncio.CancelledError):
                raise
            return
        assert served is not None
        self._record(metrics, Outcome.COMPLETED, began)
        if log.isEnabledFor(logging.DEBUG):
            log_run(logging.DEBUG, served, result, span, began)
        stdout = result.stdout
        headers = [*served.success_headers, (b"content-length", b"%d" % len(stdout)), (b"traceparent", trace)]
        if result.http is not None:
            headers += response_metadata(result.http)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": stdout})

    def close(self) -> None:
        """End the decoding threads."""
        self._gate.close()
        self._decoder.shutdown(wait=False, cancel_futures=True)

    async def _enter(self, name: str) -> None:
        """Come in although there is no room yet. Before the body is read: a refusal is to cost little.

        Raises:
            _Failure: refused.
        """
        try:
            await self._gate.enter(name)
        except Rejected as rejected:
            raise _refusal(name, rejected, counted=True) from None

    def _record(self, metrics: BindingMetrics, outcome: Outcome, began_ns: int) -> None:
        metrics.ended(outcome, (time.monotonic_ns() - began_ns) * 1e-9)

    async def _decode_large(self, body: bytes, metrics: BindingMetrics) -> gojson.Request:
        cut = self._max_body if len(body) > self._max_body else None
        body = body[:cut]
        try:
            if len(body) <= INLINE_BYTES:
                return _decode(body, cut=cut)
            return await asyncio.get_running_loop().run_in_executor(self._decoder, partial(_decode, body, cut=cut))
        except _TooLarge:
            metrics.limit_reached(BODY_KEY)
            raise

    async def _whole_body(self, message: Message, receive: Receive) -> bytes:
        """The body that `message` begins, up to one message beyond the limit."""
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise _CallerGone
            part = message.get("body", b"")
            if part:
                parts.append(part)
                size += len(part)
            if size > self._max_body or not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
            message = await receive()

    async def _run(
        self,
        served: Served | None,
        name: str,
        request: gojson.Request,
        trace: bytes,
        receive: Receive,
        tell: Tell | None,
    ) -> Result:
        if not request.operation:
            raise _Failure(Outcome.BAD_REQUEST, 500, INVOKE, failure(name, "operation field is missing from request"))
        if served is None and self.bindings.loading:
            raise _unavailable(name, BindingUnavailable(name, "the server is still loading its guests", loading=True))
        if served is None:
            raise _Failure(Outcome.NOT_FOUND, 500, INVOKE, failure(name, f"couldn't find output binding {name}"))
        began = time.monotonic_ns()
        try:
            result = await self._execute(served, name, request, trace, receive, tell, began)
        except _Failure:
            if self._dapr:
                seconds = (time.monotonic_ns() - began) * 1e-9
                served.metrics.dapr_event(execute=request.operation == OPERATION, success=False, seconds=seconds)
            raise
        if self._dapr:
            served.metrics.dapr_event(execute=True, success=True, seconds=(time.monotonic_ns() - began) * 1e-9)
        return result

    async def _execute(
        self,
        served: Served,
        name: str,
        request: gojson.Request,
        trace: bytes,
        receive: Receive,
        tell: Tell | None,
        began: int,
    ) -> Result:
        if request.operation != OPERATION:
            reason = f"binding {name} does not support operation {request.operation}. supported operations:{OPERATION}"
            raise _Failure(Outcome.BAD_REQUEST, 500, INVOKE, failure(name, reason))
        metadata = request.metadata
        try:
            args = arguments(metadata, served) if metadata else ()
            env = environment(metadata, served, trace)
            data, http = request.data, None
            if served.proxy:
                data = b"" if data == NO_DATA else data
                http = http_request(metadata, served.binding.name, data, trace)
        except MetadataError as error:
            if error.limit:
                served.metrics.limit_reached(error.limit)
            if error.as_dapr:
                raise _Failure(Outcome.BAD_REQUEST, 500, INVOKE, failure(name, str(error))) from None
            text = f"invalid request metadata: {error}"
            raise _Failure(Outcome.BAD_REQUEST, 400, MALFORMED, text) from None
        served.runs = number = served.runs + 1
        presence = self._departures.enter(receive, tell)
        try:
            result = await self._invoke(
                served.binding.name,
                args=args,
                env=env,
                stdin=data,
                deadline_ns=began + served.timeout_ns,
                http=http,
            )
        except asyncio.CancelledError:
            if not presence.gone:
                raise
            presence.task.uncancel()
            raise _CallerGone from None
        except Rejected as rejected:
            raise _refusal(name, rejected) from None
        except BindingUnavailable as unavailable:
            raise _unavailable(name, unavailable) from None
        except Exception:
            log.exception(
                "invoking failed", extra=fields(binding=served.binding.name, request_id=trace[36:52].decode())
            )
            reason = TABLE[Outcome.HOST_FAILED].message
            raise _Failure(Outcome.HOST_FAILED, 500, INVOKE, failure(name, reason)) from None
        finally:
            self._departures.leave(presence)
        served.metrics.ran(result, len(data))
        if result.stderr and log.isEnabledFor(logging.INFO):
            log_stderr(served, result, trace.decode())
        if result.outcome is Outcome.COMPLETED:
            return result
        row = TABLE[result.outcome]
        if log.isEnabledFor(logging.DEBUG):
            log_run(logging.DEBUG, served, result, trace.decode(), began)
        reason = result_message(result, served.argv0, number, served.binding.limits)
        raise _Failure(
            result.outcome, row.status, row.code, failure(name, reason), detail=result_detail(result, reason)
        )


def _decode(body: bytes, *, cut: int | None = None) -> gojson.Request:
    """Decode a body; `cut` is the limit it was cut at, if it was longer."""
    try:
        return gojson.decode(body, cut=cut is not None)
    except gojson.MalformedError as error:
        text = f"failed deserializing HTTP body: {error}"
        if cut is not None and isinstance(error, gojson.TooLargeError):
            # Dapr's message stays as it is; what it leaves out stands beside it.
            detail = f"the request body is longer than {Unit.SIZE.show(cut)} ({BODY_KEY})"
            raise _TooLarge(Outcome.BAD_REQUEST, 400, MALFORMED, text, detail=detail) from None
        raise _Failure(Outcome.BAD_REQUEST, 400, MALFORMED, text) from None


def _refusal(name: str, rejected: Rejected, *, counted: bool = False) -> _Failure:
    text = failure(name, refusal(rejected))
    return _Failure(Outcome.REJECTED, 503, NO_WORKER, text, retry_after_s=rejected.retry_after_s, counted=counted)


def _unavailable(name: str, unavailable: BindingUnavailable) -> _Failure:
    """A binding that is loading may be tried again; one that failed to load is, as in Dapr, not there."""
    if unavailable.loading:
        text = failure(name, f"binding {name} is still loading")
        return _Failure(Outcome.REJECTED, 503, NO_WORKER, text, retry_after_s=1)
    text = failure(name, f"couldn't find output binding {name}")
    return _Failure(Outcome.NOT_FOUND, 500, INVOKE, text, detail=unavailable.why)


def _with_trace(request: gojson.Request, state: bytes | None, baggage: bytes | None) -> gojson.Request:
    """The request with the headers that Dapr copies into its metadata.

    Raises:
        _Failure: the baggage is malformed.
    """
    metadata = dict(request.metadata or {})
    if baggage is not None:
        text = baggage.decode("utf-8", "replace")
        fault = baggage_fault(text)
        if fault:
            raise _Failure(Outcome.BAD_REQUEST, 400, MALFORMED, f"invalid baggage header: {fault}")
        metadata["baggage"] = text
    if state is not None:
        metadata["tracestate"] = state.decode("utf-8", "replace")
    return request._replace(metadata=metadata)

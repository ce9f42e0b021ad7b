"""`POST /v1.0/bindings/{name}`. This is the hot path, and therefore raw ASGI.

The order of checks is Dapr's (pkg/api/http/http.go, onOutputBindingMessage; pkg/runtime/processor/binding/send.go,
sendToOutputBinding): body, baggage, operation, binding, operation supported, invocation.
"""

import asyncio
import logging
import time
from functools import partial
from typing import Final

from sandboxd import gojson
from sandboxd.front.answering import failures, payload
from sandboxd.front.answering.attempt import attempt
from sandboxd.front.answering.deciding import OPERATION, addressed, answered, decide, unfit
from sandboxd.front.answering.failures import CallerGone, Failure
from sandboxd.front.answering.http_guest import NO_DATA, response_metadata
from sandboxd.front.answering.load_shedding import Gate
from sandboxd.front.answering.runlog import keep_failure, log_run
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.decoding import BodyDecoder, DecoderBusyError, DecoderLostError
from sandboxd.front.http.bodies import BODY_TIMEOUT, HELD, WHOLE, BodyLate, Whole, read_body
from sandboxd.front.http.failed import send_failure
from sandboxd.front.ports import Bindings, FrontSettings, Invoker, Receive, Scope, Send, Served
from sandboxd.front.servers.disconnects import GONE, Disconnects, Tell
from sandboxd.limits.keys import BODY_KEY, named
from sandboxd.limits.units import Unit
from sandboxd.log import fields
from sandboxd.metrics import BindingMetrics, Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.wire.messages import Call, Result
from sandboxd.wire.streams import StdoutKind

log = logging.getLogger("sandboxd.request")

_UNNAMED_TIMEOUT_NS: Final = 30_000_000_000
"""The time to decode the body of a request for a binding that does not exist."""
INLINE_BYTES: Final = 32 * 1024
"""Longer bodies are decoded in another process: the decoder may need a second for a hostile one. Bytes."""
BODIES_WAITING: Final = "bodies_waiting"
"""The reason by which the metrics count bodies that were not decoded because too many others wait."""
_TRACE_HEADERS: Final = frozenset((b"traceparent", b"tracestate", b"baggage"))


class _TooLarge(Failure):
    """The body is longer than the limit, and the part within the limit is not a complete request."""


class BindingEndpoint:
    """Answers binding requests.

    Parameters:
        settings: the limits of requests.
        invoker: runs guests.
        metrics: counts requests.
    """

    def __init__(self, settings: FrontSettings, invoker: Invoker, metrics: Metrics) -> None:
        self.bindings = Bindings()
        """The bindings that are served. Assign a new snapshot to change them. Running requests keep the former one."""
        self._max_body = settings.max_body_bytes
        self._pace = settings.pace
        self._turned_away = metrics.turned_away
        self._inline = min(INLINE_BYTES, settings.max_body_bytes)
        self._invoker = invoker
        self._invoke = invoker.invoke
        self.gate = Gate(invoker)
        """Refuses requests for bindings that have no room."""
        self._unnamed = metrics.binding("")
        self._dapr = metrics.dapr is not None
        self._disconnects = Disconnects()
        self._decoder = BodyDecoder(settings.wall)

    def __repr__(self) -> str:
        return f"<BindingEndpoint of {len(self.bindings.by_name)} bindings>"

    async def __call__(self, served: Served | None, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Parameters:
            served: the binding; None if no binding has this name.
            name: the name in the request's path, unescaped.
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
            if served is not None and self.gate.shut(served.binding.name):
                await self._enter(served)
            extensions = scope.get("extensions") or {}
            whole: Whole | None = extensions.get(WHOLE)
            if whole is not None and whole():
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerGone
                body: bytes = message["body"]
            else:
                body = await self._read_body(receive, served, began)
            if len(body) <= self._inline:
                request = _decode(body)
                if served is not None and (
                    served.converts_stdin or (request.metadata and payload.STDIN in request.metadata)
                ):
                    request = _converted(request, served)
            else:
                request = await self._decode_large(body, served, metrics, began)
            if state is not None or baggage is not None:
                request = _with_trace(request, state if parent and trace[3:35] in parent else None, baggage)
            result = await self._run(served, name, request, trace, receive, extensions.get(GONE), began)
        except Failure as failed:
            self._record(metrics, failed.outcome, began)
            keep_failure(metrics, failed, span, began)
            await send_failure(failed, served, span, began, scope, send)
            return
        except (CallerGone, asyncio.CancelledError) as ended:
            self._record(metrics, Outcome.CANCELLED, began)
            if isinstance(ended, asyncio.CancelledError):
                raise
            return
        assert served is not None
        self._record(metrics, Outcome.COMPLETED, began)
        if log.isEnabledFor(logging.DEBUG):
            log_run(logging.DEBUG, served, result, span, began)
        stdout = result.stdout
        if served.converts_stdout or (request.metadata and payload.STDOUT in request.metadata):
            stdout = await _reply(payload.stdout_kind(request.metadata, served.binding.stdout), stdout)
        headers = [*served.success_headers, (b"content-length", b"%d" % len(stdout)), (b"traceparent", trace)]
        if result.http is not None:
            headers += response_metadata(result.http)
        await send({"type": "http.response.start", "status": 200, "headers": headers, HELD: len(stdout)})
        await send({"type": "http.response.body", "body": stdout})

    def close(self) -> None:
        """End the decoding processes."""
        self.gate.close()
        self._decoder.close()

    async def _enter(self, served: Served) -> None:
        """Wait for admission while the binding has no room. This happens before the body is read, so that a refusal is
        cheap.

        Raises:
            Failure: the request is refused.
        """
        name = served.binding.name
        try:
            await self.gate.enter(name)
        except Rejected as rejected:
            # The body, which names the operation, is not read.
            served.metrics.dapr_event("", success=False, seconds=0.0)
            raise failures.of_refusal(rejected, name, counted=True) from None

    def _record(self, metrics: BindingMetrics, outcome: Outcome, began_ns: int) -> None:
        metrics.ended(outcome, (time.monotonic_ns() - began_ns) * 1e-9)

    async def _decode_large(
        self, body: bytes, served: Served | None, metrics: BindingMetrics, began_ns: int
    ) -> gojson.Request:
        """Decode a body in another process, until the deadline of the request, and convert `data` to the binding's
        stdin kind.

        Raises:
            Failure: the body is not a valid request, or was not decoded in time.
        """
        cut = self._max_body if len(body) > self._max_body else None
        body = body[:cut]
        timeout_ns = _UNNAMED_TIMEOUT_NS if served is None else served.timeout_ns
        try:
            if len(body) <= INLINE_BYTES:
                request = _decode(body, cut=cut)
                return request if served is None else _converted(request, served)
            kind = None if served is None else served.binding.stdin
            return await self._decoder.decode(body, kind, cut=cut is not None, deadline_ns=began_ns + timeout_ns)
        except (payload.DataError, payload.KindError) as error:
            raise unfit(error) from None
        except gojson.MalformedError as error:
            failed = _malformed(error, cut)
            if isinstance(failed, _TooLarge):
                metrics.limit_reached(BODY_KEY)
            raise failed from None
        except _TooLarge:
            metrics.limit_reached(BODY_KEY)
            raise
        except TimeoutError:
            text = "the request's body could not be decoded in time"
            raise Failure(Outcome.DEADLINE_EXCEEDED, text) from None
        except DecoderBusyError:
            self._turned_away(BODIES_WAITING)
            text = "too many large request bodies wait to be decoded"
            raise Failure(Outcome.REJECTED, text, retry_after_s=1) from None
        except DecoderLostError as error:
            log.error("a request's body could not be decoded: %s", error)
            raise Failure(Outcome.HOST_FAILED, "the request's body could not be decoded") from None

    async def _read_body(self, receive: Receive, served: Served | None, began_ns: int) -> bytes:
        """Return the body. Of a body that is too long, return somewhat more than the limit.

        Raises:
            Failure: the body did not arrive in time.
        """
        deadline_ns = None if served is None else began_ns + served.timeout_ns
        try:
            return await read_body(receive, self._pace, limit=self._max_body, deadline_ns=deadline_ns)
        except BodyLate as late:
            if late.deadline:
                assert served is not None
                text = f"the request's body did not come within {named('timeout_ms', served.binding.limits.timeout_ms)}"
                raise Failure(Outcome.DEADLINE_EXCEEDED, text, status=408) from None
            self._turned_away(BODY_TIMEOUT)
            raise Failure(Outcome.BAD_REQUEST, str(late), status=408) from None

    async def _run(
        self,
        served: Served | None,
        name: str,
        request: gojson.Request,
        trace: bytes,
        receive: Receive,
        tell: Tell | None,
        began: int,
    ) -> Result:
        if served is None or not request.operation:
            try:
                served = addressed(served, name, request.operation, loading=self.bindings.loading)
            except Failure:
                (served.metrics if served is not None else self._unnamed).dapr_event(
                    request.operation, success=False, seconds=0.0
                )
                raise
        decided = time.monotonic_ns()
        try:
            result = await self._execute(served, name, request, trace, receive, tell, began)
        except Failure:
            if self._dapr:
                seconds = (time.monotonic_ns() - decided) * 1e-9
                served.metrics.dapr_event(request.operation, success=False, seconds=seconds)
            raise
        if self._dapr:
            seconds = (time.monotonic_ns() - decided) * 1e-9
            served.metrics.dapr_event(OPERATION, success=True, seconds=seconds)
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
        data = request.data
        if not served.is_program and data == NO_DATA:
            data = b""
        call = decide(served, name, request.operation, request.metadata, data, trace, began + served.timeout_ns)
        presence = self._disconnects.enter(receive, tell)
        try:
            if served.guard is not None:
                once = partial(self._once, served, trace.decode(), began)
                return await served.guard.run(call, once)
            served.runs = number = served.runs + 1
            result = await self._invoke(served.binding.name, call)
        except Failure:
            raise
        except asyncio.CancelledError:
            if not presence.gone:
                raise
            presence.task.uncancel()
            raise CallerGone from None
        except (Rejected, BindingUnavailable) as error:
            raise failures.of_error(error, name) from None
        except Exception as error:
            log.exception(
                "invoking failed", extra=fields(binding=served.binding.name, request_id=trace[36:52].decode())
            )
            raise failures.of_error(error, name) from None
        finally:
            self._disconnects.leave(presence)
        served.metrics.ran(result, len(data))
        if result.outcome is Outcome.COMPLETED and not result.stderr:
            return result
        return answered(result, served, number, trace.decode(), began)

    async def _once(self, served: Served, span: str, began: int, call: Call, by_policy: bool) -> Result:
        return await attempt(self._invoker, served, call, span, began, by_policy=by_policy)


def _decode(body: bytes, *, cut: int | None = None) -> gojson.Request:
    """Decode a body. `cut` is the limit at which a longer body was cut; None if it was not cut. Raises Failure."""
    try:
        return gojson.decode(body, cut=cut is not None)
    except gojson.MalformedError as error:
        raise _malformed(error, cut) from None


def _converted(request: gojson.Request, served: Served) -> gojson.Request:
    """Convert `data` to the stdin kind that the request or the binding asks for. Raises Failure."""
    try:
        return payload.converted(request, served.binding.stdin)
    except (payload.DataError, payload.KindError) as error:
        raise unfit(error) from None


async def _reply(kind: StdoutKind, stdout: bytes) -> bytes:
    """Return the reply for a guest's stdout. A long conversion lets other requests run in between."""
    pieces = []
    for piece in payload.reply_pieces(kind, stdout):
        pieces.append(piece)
        if len(piece) > INLINE_BYTES:
            await asyncio.sleep(0)
    return b"".join(pieces)


def _malformed(error: gojson.MalformedError, cut: int | None) -> Failure:
    text = f"failed deserializing HTTP body: {error}"
    if cut is not None and isinstance(error, gojson.TooLargeError):
        # The message is exactly Dapr's. The detail adds what it does not say.
        detail = f"the request body is longer than {Unit.SIZE.show(cut)} ({BODY_KEY})"
        return _TooLarge(Outcome.BAD_REQUEST, text, detail=detail)
    return Failure(Outcome.BAD_REQUEST, text)


def _with_trace(request: gojson.Request, state: bytes | None, baggage: bytes | None) -> gojson.Request:
    """Return the request with those headers in its metadata that Dapr copies there.

    Raises:
        Failure: the baggage is malformed.
    """
    metadata = dict(request.metadata or {})
    if baggage is not None:
        text = baggage.decode("utf-8", "replace")
        metadata["baggage"] = text
    if state is not None:
        metadata["tracestate"] = state.decode("utf-8", "replace")
    return request._replace(metadata=metadata)

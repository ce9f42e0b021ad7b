"""`ANY /v1.0/http/{name}/*path`: a real request, streamed to a guest that handles HTTP, and its response back.

The worker decides how much of the request's body is read, the caller how much of the response is: neither is held here
beyond a window. A response that has begun and cannot be completed is cut off, so that no caller takes it for a whole.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from sandboxd.front.auth import TOKEN_HEADER
from sandboxd.front.gojson import error_body
from sandboxd.front.outcomes import INVOKE, TABLE, refusal, result_detail, result_message
from sandboxd.front.ports import Bindings, Headers, Invoker, Message, Receive, Scope, Send, Served
from sandboxd.front.proxy import HOP_BY_HOP, is_target
from sandboxd.front.replies import JSON
from sandboxd.front.routing import HTTP, unescape_name
from sandboxd.front.runlog import log_run, log_stderr
from sandboxd.front.tracing import new_span
from sandboxd.limit_keys import key_of, named
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.pool.stream import Stream
from sandboxd.wire.messages import HttpRequest, ResponseHead, Result

log = logging.getLogger("sandboxd.request")

GATHERED_BYTES: Final = 64 * 1024
"""A body announced to be no longer is read before a worker is taken: a slow caller then costs no worker."""
DRAINED_BYTES: Final = 4 * 1024 * 1024
"""Before a request is refused, so much of its body is read: Hypercorn would cut off a caller that is still sending, and
the caller might never see the answer."""
DRAIN_S: Final = 2.0
ABORT: Final = "sandboxd.abort"
"""ASGI extension of an engine that needs to be told to cut a connection off."""
_BODY_LIMIT: Final = "http_body_bytes"
_NO_LENGTH: Final = frozenset((204, 304))
_NOT_FORWARDED: Final = HOP_BY_HOP | {TOKEN_HEADER, b"expect", b"traceparent"}
_NOT_RETURNED: Final = HOP_BY_HOP | {b"date"}
"""Engines give every response its Date."""
_WITHOUT_LENGTH: Final = _NOT_RETURNED | {b"content-length"}


class _Failure(Exception):  # noqa: N818 - an answer on its way out, not an error of the program
    """The request is answered with an error."""

    def __init__(
        self, outcome: Outcome, message: str, *, status: int = 0, detail: str = "", retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        row = TABLE[outcome]
        self.outcome = outcome
        self.status = status or row.http
        self.code = row.code or INVOKE
        self.body = error_body(self.code, message, detail)
        self.retry_after_s = retry_after_s


class _CallerGone(Exception):  # noqa: N818 - likewise
    """Nobody waits for the answer."""


class HttpEndpoint:
    """Answers requests under /v1.0/http/.

    Parameters:
        invoker: runs guests.
        metrics: where requests are counted.
    """

    def __init__(self, invoker: Invoker, metrics: Metrics) -> None:
        self.bindings = Bindings()
        """What is served. Assign another snapshot to change it; requests already begun keep theirs."""
        self._invoker = invoker
        self._unnamed = metrics.binding("")

    def __repr__(self) -> str:
        return f"<HttpEndpoint of {len(self.bindings.by_name)} bindings>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whose raw path begins with /v1.0/http/."""
        began = time.monotonic_ns()
        segment, slash, rest = scope["raw_path"][len(HTTP) :].partition(b"/")
        name = unescape_name(segment)
        served = self.bindings.by_name.get(name)
        metrics = served.metrics if served is not None else self._unnamed
        parent = next((value for key, value in scope["headers"] if key == b"traceparent"), None)
        span = new_span(parent)
        call = _Call(scope, receive, send, span)
        outcome, status = Outcome.COMPLETED, 0
        try:
            if served is None or not served.proxy:
                raise _no_handler(name, served)
            request = _request(scope, served, slash + rest, span, parent)
            await self._run(call, served, request, began)
        except _Failure as failed:
            outcome, status = failed.outcome, failed.status
            if call.started:
                await call.abort()
            else:
                await call.refuse(failed)
        except (_CallerGone, asyncio.CancelledError) as ended:
            outcome = Outcome.CANCELLED
            if isinstance(ended, asyncio.CancelledError):
                raise
        finally:
            metrics.ended(outcome, (time.monotonic_ns() - began) * 1e-9)
            if outcome is not Outcome.COMPLETED and log.isEnabledFor(TABLE[outcome].level):
                log.log(
                    TABLE[outcome].level,
                    "response cut off" if call.started else "request failed",
                    extra=call.fields(served, outcome, status, began),
                )

    async def _run(self, call: "_Call", served: Served, request: HttpRequest, began: int) -> None:
        limit = served.binding.limits.http_body_bytes
        announced = call.announced()
        if announced is not None and announced > limit:
            raise _too_large(served)
        deadline_ns = began + served.timeout_ns
        body, follows = b"", announced != 0
        if announced is not None and announced <= GATHERED_BYTES:
            try:
                async with asyncio.timeout((deadline_ns - time.monotonic_ns()) / 1e9):
                    body, follows = await call.gather(), False
            except TimeoutError:
                text = f"the request's body did not come within {named('timeout_ms', served.binding.limits.timeout_ms)}"
                raise _Failure(Outcome.DEADLINE_EXCEEDED, text, status=408) from None
        stream = Stream(body_follows=follows)
        invoking = asyncio.create_task(
            self._invoker.invoke(
                served.binding.name,
                env=((b"TRACEPARENT", call.span.encode()),) if served.traced else (),
                stdin=body,
                deadline_ns=deadline_ns,
                http=request,
                stream=stream,
            )
        )
        feeding = asyncio.create_task(call.feed(stream, invoking, limit))
        relaying = asyncio.create_task(call.relay(stream, served))
        # An engine that cannot send has lost the caller.
        relaying.add_done_callback(lambda task: task.cancelled() or (task.exception() and invoking.cancel()))
        served.runs = number = served.runs + 1
        try:
            result = await self._result(call, served, invoking)
            self._account(call, served, result, len(body) + call.fed_bytes, stream.received_bytes, began)
            if result.outcome is not Outcome.COMPLETED:
                reason = result_message(result, served.argv0, number, served.binding.limits)
                raise _Failure(result.outcome, _text(served, reason), detail=result_detail(result, reason))
            await relaying
            await call.finish()
        finally:
            for task in (invoking, feeding, relaying):
                task.cancel()
            await asyncio.gather(invoking, feeding, relaying, return_exceptions=True)

    async def _result(self, call: "_Call", served: Served, invoking: "asyncio.Task[Result]") -> Result:
        name = served.binding.name
        try:
            return await asyncio.shield(invoking)
        except asyncio.CancelledError:
            if not invoking.cancelled():
                raise
            if call.too_large:
                raise _too_large(served) from None
            raise _CallerGone from None
        except Rejected as rejected:
            text = _text(served, refusal(rejected))
            raise _Failure(Outcome.REJECTED, text, retry_after_s=rejected.retry_after_s) from None
        except BindingUnavailable as unavailable:
            if unavailable.loading:
                text = f"binding {name} is still loading"
                raise _Failure(Outcome.REJECTED, text, retry_after_s=1) from None
            text = f"couldn't find output binding {name}"
            raise _Failure(Outcome.NOT_FOUND, text, detail=unavailable.why) from None
        except Exception:
            log.exception("invoking failed", extra=call.fields(served, Outcome.HOST_FAILED, 0, 0))
            raise _Failure(Outcome.HOST_FAILED, _text(served, TABLE[Outcome.HOST_FAILED].message)) from None

    @staticmethod
    def _account(call: "_Call", served: Served, result: Result, body: int, response: int, began: int) -> None:
        served.metrics.ran(result, body, response)
        if result.stderr and log.isEnabledFor(logging.INFO):
            log_stderr(served, result, call.span)
        if log.isEnabledFor(logging.DEBUG):
            log_run(logging.DEBUG, served, result, call.span, began)


class _Call:
    """One request on its connection."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, span: str) -> None:
        self.span = span
        self.started = False
        """The response's head is on its way: from now on there is only the end or a cut."""
        self.too_large = False
        self.fed_bytes = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        # HTTP/1.0 has no other end of a body than a length told before; a cut would look like the end.
        self._whole = scope["http_version"] == "1.0"
        self._read_all = False
        self._head: ResponseHead | None = None
        self._parts: list[bytes] = []

    def __repr__(self) -> str:
        return f"<_Call {self._scope['method']} {self._scope['raw_path']!r}{' started' if self.started else ''}>"

    def announced(self) -> int | None:
        """Length of the request's body, as far as its head tells."""
        length = None
        for name, value in self._scope["headers"]:
            if name == b"transfer-encoding":
                return None
            if name == b"content-length":
                length = int(value)  # engines refuse what is none
        return 0 if length is None and self._scope["http_version"].startswith("1") else length

    async def gather(self) -> bytes:
        """The whole body.

        Raises:
            _CallerGone: the connection ended before.
        """
        parts = []
        while not self._read_all:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise _CallerGone
            parts.append(message.get("body", b""))
        return b"".join(parts)

    async def feed(self, stream: Stream, invoking: "asyncio.Task[Result]", limit: int) -> None:
        """Hand the request's body to the stream, and end the invocation if the caller hangs up.

        It reads to the end even if nobody wants the rest: engines wait for that.
        """
        while True:
            message = await self._next()
            if message["type"] == "http.disconnect":
                invoking.cancel()
                return
            data = message.get("body", b"")
            self.fed_bytes += len(data)
            if self.fed_bytes > limit and not invoking.done():
                self.too_large = True
                invoking.cancel()
            if stream.body_follows:
                await stream.send(data, last=not message.get("more_body", False))

    async def relay(self, stream: Stream, served: Served) -> None:
        """Hand the response on as it comes. Its end is `finish`, once it is known to be complete."""
        size = 0
        while (item := await stream.receive()) is not None:
            if isinstance(item, ResponseHead):
                self._head = item
                if not self._whole:
                    await self._start(item, ())
            elif not self._whole:
                await self._send({"type": "http.response.body", "body": item, "more_body": True})
            elif size <= served.binding.limits.stdout_bytes:
                size += len(item)
                self._parts.append(item)
        if size > served.binding.limits.stdout_bytes:
            text = f"a response to HTTP/1.0 may have {named('stdout_bytes', served.binding.limits.stdout_bytes)}"
            raise _Failure(Outcome.OUTPUT_EXCEEDED, text)

    async def finish(self) -> None:
        """The response is complete."""
        body = b"".join(self._parts)
        if self._head is None:
            raise _Failure(Outcome.HOST_FAILED, TABLE[Outcome.HOST_FAILED].message)
        if self._whole:
            has_length = any(name.lower() == b"content-length" for name, _ in self._head.headers)
            await self._start(self._head, () if has_length else ((b"content-length", b"%d" % len(body)),))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(self, failed: _Failure) -> None:
        """Answer with an error."""
        await self._drain()
        headers = [JSON, (b"content-length", b"%d" % len(failed.body)), (b"traceparent", self.span.encode())]
        if failed.retry_after_s:
            headers.append((b"retry-after", b"%d" % failed.retry_after_s))
        await self._send({"type": "http.response.start", "status": failed.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": failed.body})

    async def abort(self) -> None:
        """Cut the response off. Hypercorn does that when the application returns; uvicorn needs to be told."""
        cut = (self._scope.get("extensions") or {}).get(ABORT)
        if cut is not None:
            cut()
            await asyncio.sleep(0)  # or the engine would find a response unfinished, and log that
        else:
            await self._clear()

    async def _next(self) -> Message:
        message = await self._receive()
        self._read_all = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def _drain(self) -> None:
        """Read what is left of a body that is not very long."""
        announced = self.announced()
        left = DRAINED_BYTES
        if announced == 0 or self._read_all:
            return
        if announced is None or announced <= left:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    while left > 0 and not self._read_all:
                        left -= len((await self._next()).get("body", b""))
        await self._clear()

    async def _clear(self) -> None:
        """Make room for the engine to tell of the end: Hypercorn waits for it once ten messages lie unread."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                while not self._read_all:
                    await self._next()

    async def _start(self, head: ResponseHead, extra: tuple[tuple[bytes, bytes], ...]) -> None:
        self.started = True
        headers: Headers = [
            (name.lower(), value)
            for name, value in head.headers
            if name.lower() not in (_WITHOUT_LENGTH if head.status in _NO_LENGTH else _NOT_RETURNED)
        ]
        if not any(name == b"traceparent" for name, _ in headers):
            headers.append((b"traceparent", self.span.encode()))
        await self._send({"type": "http.response.start", "status": head.status, "headers": [*headers, *extra]})

    def fields(self, served: Served | None, outcome: Outcome, status: int, began: int) -> Mapping[str, Any]:
        """For a log line."""
        return fields(
            binding=served.binding.name if served is not None else "",
            outcome=outcome.value,
            request_id=self.span[36:52],
            trace_id=self.span[3:35],
            status=status,
            duration_ms=(time.monotonic_ns() - began) / 1e6,
        )


def _text(served: Served, reason: str) -> str:
    return f"error invoking HTTP guest {served.binding.name}: {reason}"


def _too_large(served: Served) -> _Failure:
    served.metrics.limit_reached(key_of(_BODY_LIMIT))
    text = f"the request's body is longer than {named(_BODY_LIMIT, served.binding.limits.http_body_bytes)}"
    return _Failure(Outcome.BAD_REQUEST, text, status=413)


def _no_handler(name: str, served: Served | None) -> _Failure:
    if served is None:
        return _Failure(Outcome.NOT_FOUND, f"couldn't find output binding {name}")
    text = f"the guest of binding {name} is a program and handles no HTTP requests"
    return _Failure(
        Outcome.NOT_FOUND, text, detail=f"call POST /v1.0/bindings/{name}, or bind a wasi:http/proxy component"
    )


def _request(scope: Scope, served: Served, path: bytes, span: str, parent: bytes | None) -> HttpRequest:
    """The request as the guest gets it.

    Parameters:
        path: what follows the binding's name, percent-encoded as it came.

    Raises:
        _Failure: the path has characters that none may have.
    """
    query: bytes = scope["query_string"]
    target = ((path or b"/") + (b"?" + query if query else b"")).decode("latin-1")
    if not is_target(target):
        raise _Failure(Outcome.BAD_REQUEST, "the path has characters that have to be percent-encoded")
    lines: Headers = scope["headers"]
    nominated = {token.strip().lower() for name, value in lines if name == b"connection" for token in value.split(b",")}
    # A tracestate belongs to the trace it came with (W3C Trace Context, 3.3).
    stale = parent is None or span[3:35].encode() not in parent
    headers = [
        (name, value)
        for name, value in lines
        if name not in _NOT_FORWARDED and name not in nominated and not (stale and name == b"tracestate")
    ]
    host = next((value for name, value in lines if name == b"host" and value), served.binding.name.encode())
    return HttpRequest(
        method=scope["method"],
        scheme=scope.get("scheme", "http"),
        authority=host.decode("latin-1"),
        path=target,
        headers=(*headers, (b"traceparent", span.encode())),
    )

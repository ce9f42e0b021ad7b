"""`ANY /v1.0/http/{name}/*path`: stream a request to a guest that handles HTTP, and its response back to the caller.

The worker's window bounds how much of the request's body is read ahead, and the caller's pace how much of the response.
A response that has begun and cannot be completed is cut off, so that no caller takes it for a complete one.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from sandboxd.front.answering import failures
from sandboxd.front.answering.failures import CallerGone, Failure
from sandboxd.front.answering.http_guest import HOP_BY_HOP, is_target
from sandboxd.front.answering.outcomes import TABLE
from sandboxd.front.answering.runlog import (
    REQUEST_FAILED,
    in_full,
    keep_failure,
    log_failure,
    log_run,
    log_stderr,
)
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.http.auth import TOKEN_HEADER
from sandboxd.front.http.routing import HTTP, unescape_name
from sandboxd.front.ports import Bindings, Headers, Invoker, Message, Receive, Scope, Send, Served
from sandboxd.limits.keys import key_of, named
from sandboxd.log import fields
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.pool.stream import Stream
from sandboxd.wire.messages import Call, HttpRequest, ResponseHead, Result

log = logging.getLogger("sandboxd.request")

GATHERED_BYTES: Final = 64 * 1024
"""A body with a Content-Length up to this is read before a worker is taken, so that a slow caller holds no worker."""
DRAINED_BYTES: Final = 4 * 1024 * 1024
"""Bytes of a request's body that are read before the request is refused. Hypercorn cuts off a caller that is still
sending, and the caller might then never see the response."""
DRAIN_S: Final = 2.0
ABORT: Final = "sandboxd.abort"
"""ASGI extension of an HTTP server that cuts a connection off only on request."""
_BODY_LIMIT: Final = "http_body_bytes"
_NO_LENGTH: Final = frozenset((204, 304))
_NOT_FORWARDED: Final = HOP_BY_HOP | {TOKEN_HEADER, b"expect", b"traceparent"}
_NOT_RETURNED: Final = HOP_BY_HOP | {b"date", b"traceparent"}
"""Headers of the guest that are not returned. The HTTP server gives every response its Date, and `traceparent` is that
of the request's span, whatever an origin has answered the guest."""
_WITHOUT_LENGTH: Final = _NOT_RETURNED | {b"content-length"}


class HttpEndpoint:
    """Answers requests under /v1.0/http/.

    Parameters:
        invoker: runs guests.
        metrics: counts requests.
    """

    def __init__(self, invoker: Invoker, metrics: Metrics) -> None:
        self.bindings = Bindings()
        """The bindings that are served. Assign a new snapshot to change them. Running requests keep the former one."""
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
        outcome, status, reason = Outcome.COMPLETED, 0, ""
        try:
            if served is None or not served.handles_http:
                raise _no_handler(name, served)
            request = _request(scope, served, slash + rest, span, parent)
            await self._run(call, served, request, began)
        except Failure as failed:
            outcome, status, reason = failed.outcome, failed.status, failed.reason()
            keep_failure(metrics, failed, span, began)
            if call.started:
                status = call.status
                await call.abort()
            else:
                await call.refuse(failed)
        except (CallerGone, asyncio.CancelledError) as ended:
            outcome = Outcome.CANCELLED
            if isinstance(ended, asyncio.CancelledError):
                raise
        finally:
            metrics.ended(outcome, (time.monotonic_ns() - began) * 1e-9)
            if outcome is not Outcome.COMPLETED:
                text = "response cut off" if call.started else REQUEST_FAILED
                binding = served.binding.name if served is not None else ""
                if in_full(binding, outcome, text):
                    log_failure(outcome, text, binding, call.fields(served, outcome, status, began, reason), reason)

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
                raise Failure(Outcome.DEADLINE_EXCEEDED, text, status=408) from None
        stream = Stream(body_follows=follows)
        invoking = asyncio.create_task(
            self._invoker.invoke(
                served.binding.name,
                Call(
                    deadline_ns=deadline_ns,
                    env=((b"TRACEPARENT", call.span.encode()),) if served.traced else (),
                    stdin=body,
                    http=request,
                ),
                stream,
            )
        )
        feeding = asyncio.create_task(call.feed(stream, invoking, limit))
        relaying = asyncio.create_task(call.relay(stream, served))
        # An exception while sending means that the caller has gone.
        relaying.add_done_callback(lambda task: task.cancelled() or (task.exception() and invoking.cancel()))
        served.runs = number = served.runs + 1
        try:
            result = await self._result(call, served, invoking)
            self._account(call, served, result, len(body) + call.fed_bytes, stream.received_bytes, began)
            if result.outcome is not Outcome.COMPLETED:
                raise failures.of_result(result, served, number, http=True)
            await relaying
            await _settled(feeding)
            await call.finish()  # nothing is awaited between this and the count, for which the caller may ask next
        finally:
            await _settled(invoking, feeding, relaying)

    async def _result(self, call: "_Call", served: Served, invoking: "asyncio.Task[Result]") -> Result:
        name = served.binding.name
        try:
            return await asyncio.shield(invoking)
        except asyncio.CancelledError:
            if not invoking.cancelled():
                raise
            if call.too_large:
                raise _too_large(served) from None
            raise CallerGone from None
        except (Rejected, BindingUnavailable) as error:
            raise failures.of_error(error, name, http=True) from None
        except Exception as error:
            log.exception("invoking failed", extra=call.fields(served, Outcome.HOST_FAILED, 0, 0))
            raise failures.of_error(error, name, http=True) from None

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
        """Whether the response's head was sent. After that the response can only be completed or cut off."""
        self.status = 0
        """The status that was sent; 0 before."""
        self.too_large = False
        self.fed_bytes = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        # HTTP/1.0 can mark the end of a body only by a length. Without it, a cut would look like the end.
        self._whole = scope["http_version"] == "1.0"
        self._read_all = False
        self._head: ResponseHead | None = None
        self._parts: list[bytes] = []

    def __repr__(self) -> str:
        return f"<_Call {self._scope['method']} {self._scope['raw_path']!r}{' started' if self.started else ''}>"

    def announced(self) -> int | None:
        """Return the length of the request's body, as its head gives it; None if the head does not."""
        length = None
        for name, value in self._scope["headers"]:
            if name == b"transfer-encoding":
                return None
            if name == b"content-length":
                length = int(value)  # the HTTP server has refused invalid ones
        return 0 if length is None and self._scope["http_version"].startswith("1") else length

    async def gather(self) -> bytes:
        """Return the whole body.

        Raises:
            CallerGone: the connection ended before the body.
        """
        parts = []
        while not self._read_all:
            message = await self._next()
            if message["type"] == "http.disconnect":
                raise CallerGone
            parts.append(message.get("body", b""))
        return b"".join(parts)

    async def feed(self, stream: Stream, invoking: "asyncio.Task[Result]", limit: int) -> None:
        """Pass the request's body to the stream, and cancel the invocation if the caller closes the connection.

        The body is read to its end even if the guest does not want the rest, because HTTP servers wait for that.
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
        """Pass the response on as it arrives. `finish` ends it, once it is known to be complete."""
        size = 0
        while (item := await stream.receive()) is not None:
            if isinstance(item, ResponseHead):
                self._head = item
                if not self._whole:
                    await self._start(item, ())
                    # ASGI lets a server hold the head back until the body begins. An empty piece sends it now.
                    await self._send({"type": "http.response.body", "body": b"", "more_body": True})
            elif not self._whole:
                await self._send({"type": "http.response.body", "body": item, "more_body": True})
            elif size <= served.binding.limits.stdout_bytes:
                size += len(item)
                self._parts.append(item)
        if size > served.binding.limits.stdout_bytes:
            text = f"a response to HTTP/1.0 may have {named('stdout_bytes', served.binding.limits.stdout_bytes)}"
            raise Failure(Outcome.OUTPUT_EXCEEDED, text, http=True)

    async def finish(self) -> None:
        """End the response, which is complete."""
        body = b"".join(self._parts)
        if self._head is None:
            raise Failure(Outcome.HOST_FAILED, TABLE[Outcome.HOST_FAILED].message, http=True)
        if self._whole:
            has_length = any(name.lower() == b"content-length" for name, _ in self._head.headers)
            await self._start(self._head, () if has_length else ((b"content-length", b"%d" % len(body)),))
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(self, failed: Failure) -> None:
        """Answer with an error."""
        await self._drain()
        body = failed.body()
        headers = failed.headers(body, self.span.encode())
        await self._send({"type": "http.response.start", "status": failed.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def abort(self) -> None:
        """Cut the response off. Hypercorn does that when the application returns, uvicorn only on request."""
        cut = (self._scope.get("extensions") or {}).get(ABORT)
        if cut is not None:
            cut()
            await asyncio.sleep(0)  # without this, the HTTP server would log an unfinished response
        else:
            await self._clear()

    async def _next(self) -> Message:
        message = await self._receive()
        self._read_all = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def _drain(self) -> None:
        """Read the rest of the request's body, unless it is very long."""
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
        """Read all messages that have arrived.

        Hypercorn cannot report the end of a connection while ten messages are unread.
        """
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
        headers.append((b"traceparent", self.span.encode()))
        self.status = head.status
        await self._send({"type": "http.response.start", "status": head.status, "headers": [*headers, *extra]})

    def fields(
        self, served: Served | None, outcome: Outcome, status: int, began: int, reason: str = ""
    ) -> Mapping[str, Any]:
        """Return the fields of a log line."""
        return fields(
            binding=served.binding.name if served is not None else "",
            outcome=outcome.value,
            request_id=self.span[36:52],
            trace_id=self.span[3:35],
            status=status,
            duration_ms=(time.monotonic_ns() - began) / 1e6,
            **({"reason": reason} if reason else {}),
        )


async def _settled(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait for their end. Return at once if they have ended."""
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.gather(*left, return_exceptions=True)


def _too_large(served: Served) -> Failure:
    served.metrics.limit_reached(key_of(_BODY_LIMIT))
    text = f"the request's body is longer than {named(_BODY_LIMIT, served.binding.limits.http_body_bytes)}"
    return Failure(Outcome.BAD_REQUEST, text, status=413)


def _no_handler(name: str, served: Served | None) -> Failure:
    if served is None:
        return failures.not_found(name, http=True)
    text = f"the guest of binding {name} is a program and handles no HTTP requests"
    detail = f"call POST /v1.0/bindings/{name}, or bind a wasi:http/proxy component"
    return Failure(Outcome.NOT_FOUND, text, http=True, detail=detail)


def _request(scope: Scope, served: Served, path: bytes, span: str, parent: bytes | None) -> HttpRequest:
    """Return the request in the form that the guest receives.

    Parameters:
        path: the path after the binding's name, percent-encoded as it arrived.

    Raises:
        Failure: the path has characters that must be percent-encoded.
    """
    query: bytes = scope["query_string"]
    target = ((path or b"/") + (b"?" + query if query else b"")).decode("latin-1")
    if not is_target(target):
        raise Failure(Outcome.BAD_REQUEST, "the path has characters that have to be percent-encoded", http=True)
    lines: Headers = scope["headers"]
    nominated = {token.strip().lower() for name, value in lines if name == b"connection" for token in value.split(b",")}
    # A tracestate belongs to the trace with which it arrived (W3C Trace Context, 3.3).
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

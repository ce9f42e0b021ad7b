"""The inner transport: the guests' HTTP client as a transport of httpx. A transport that is given, for example to sign
requests, wraps it.

This module is loaded only if there is such a transport, because it loads httpx.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import httpx2 as httpx

from hostfuncs.outbound import httpx_errors
from hostfuncs.outbound.admission import Refused, admit
from hostfuncs.outbound.errors import ErrorCode, OutboundError
from hostfuncs.outbound.exchange import Exchange, Owner
from hostfuncs.outbound.values import Fields, Options, Request

if TYPE_CHECKING:
    from hostfuncs.outbound.body import RequestBody

RULE = "hostfuncs.rule"
"""Extension of requests and responses: the pattern of the policy that matched. A str."""
TRAILERS = "hostfuncs.trailers"
"""Extension of requests and responses: a function without parameters that returns the trailer lines, (name, value) in
bytes. It returns none before the body has been read to its end."""
FIRST_BYTE_TIMEOUT = "hostfuncs.first_byte_timeout"
"""Extension of requests: the seconds from the established connection to the end of the response's head. A float."""
BETWEEN_BYTES_TIMEOUT = "hostfuncs.between_bytes_timeout"
"""Extension of requests: the seconds between two pieces of the response's body. A float."""

_READ_BYTES = 64 * 1024
_NO_TRAILERS: Fields = ()
# Fields that httpx or `httpx_adapter` add. They belong to the connection, which sets its own.
_CONNECTION_FIELDS = frozenset({b"host", b"transfer-encoding", b"connection", b"keep-alive"})


class Run(Owner, Protocol):
    """The run for which the inner transport sends requests, `hostfuncs.outbound.httpx_adapter.TransportExchanges`."""

    def request_body(self) -> RequestBody:
        """Return a body for a request of this run."""
        ...

    def adopt(self, exchange: Exchange) -> None:
        """Add an exchange that is not a request of the guest's own."""
        ...

    async def changed(self, holds: Callable[[], bool]) -> None:
        """Wait until a condition holds. It is checked again after each `notify`."""
        ...


class PolicyTransport(httpx.AsyncBaseTransport):
    """Sends requests in the way of guests' requests, during the run of a guest.

    Every request is checked like a guest's own: the policy, the limits of sizes, and every address of its name. Host is
    made from the URL. A failure is an exception of httpx whose `__cause__` is an OutboundError with the wasi-http error
    code.

    It reads from `request.extensions`: httpx's `timeout` (`connect`, and `read` for the response's head and between
    pieces of its body; in seconds, at most the server's), httpx's `target`, and `TRAILERS`, `FIRST_BYTE_TIMEOUT` and
    `BETWEEN_BYTES_TIMEOUT`. It sets in `response.extensions`: `RULE` and `TRAILERS`.
    """

    def __init__(self) -> None:
        self._exchanges: Run | None = None

    def __repr__(self) -> str:
        return f"<PolicyTransport {'idle' if self._exchanges is None else 'in a run'}>"

    def enter(self, exchanges: Run | None) -> None:
        """HttpxAdapter: set the run that makes requests; None when it is over."""
        self._exchanges = exchanges

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. The bodies of the request and of the response are streamed, at the same time if necessary.

        Raises:
            httpx.TransportError: the request was refused or failed. See the class.
            RuntimeError: no guest is running, or this is not its event loop.
        """
        exchanges = self._exchanges
        if exchanges is None or exchanges.loop is not asyncio.get_running_loop():
            raise RuntimeError("the inner transport serves requests only while a guest makes one, and in its loop")
        sent: _Sent | None = None
        try:
            wanted = _wanted(request)
            body = exchanges.request_body() if _has_body(request.headers) else None
            began = time.monotonic_ns()
            # The guest's own request was counted already. Its transport may retry, or fetch a token, without counting.
            plan = admit(wanted, body, exchanges.policy, exchanges.limits, -1, exchanges.pool.known)
            exchange = Exchange(exchanges, plan, _options(request), body, began)
            sent = _Sent(exchanges, exchange, body, request)
            sent.begin()
            await exchanges.changed(exchange.done)
            head = exchange.result()
        except OutboundError as error:
            if sent is not None:
                await sent.aclose()
                error = sent.reason(error)
            raise httpx_errors.failure(error, request) from error
        except BaseException:
            if sent is not None:
                await sent.aclose()
            raise
        return httpx.Response(
            head.status,
            headers=list(head.headers),
            stream=sent,
            request=request,
            extensions={RULE: plan.rule, TRAILERS: lambda: exchange.body.trailers},
        )


class _Sent(httpx.AsyncByteStream):
    """A request that was sent, and the body of its response."""

    def __init__(self, exchanges: Run, exchange: Exchange, body: RequestBody | None, request: httpx.Request) -> None:
        self._exchanges = exchanges
        self._exchange = exchange
        self._body = body
        self._request = request
        self._sender: asyncio.Task[None] | None = None
        self._unsent: OutboundError | None = None

    def begin(self) -> None:
        """Start the exchange."""
        self._exchanges.adopt(self._exchange)
        if self._body is not None:
            self._sender = asyncio.get_running_loop().create_task(self._send(self._body))
        self._exchange.begin()

    async def _send(self, body: RequestBody) -> None:
        try:
            async for chunk in cast("AsyncIterator[bytes]", self._request.stream):
                rest = memoryview(chunk)
                while rest:
                    await self._exchanges.changed(body.ready)
                    # If the exchange has ended, `permit` returns 0 and `write` raises its error.
                    part = rest[: body.permit() or 1]
                    body.write(bytes(part))
                    rest = rest[len(part) :]
            trailers: Callable[[], Fields] | None = self._request.extensions.get(TRAILERS)
            body.finish(_NO_TRAILERS if trailers is None else trailers())
        except OutboundError as error:
            body.abort(error.code)
        except Exception as error:  # noqa: BLE001 - the stream is the transport's: whatever it raises ends the request
            self._unsent = OutboundError(ErrorCode("internal-error", type(error).__name__))
            self._unsent.__cause__ = error
            body.abort(self._unsent.code)

    def reason(self, error: OutboundError) -> OutboundError:
        """Return the cause of a failure: the policy's refusal, or the exception of the request's stream."""
        exchange = self._exchange
        if exchange.denied:
            return Refused(error.code, exchange.plan.rule, exchange.denied)
        return self._unsent or error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = self._exchange.body
        try:
            while True:
                await self._exchanges.changed(body.ready)
                chunk = body.read(_READ_BYTES)
                if chunk:
                    yield chunk
                elif body.ended:
                    return
        except OutboundError as error:
            reason = self.reason(error)
            raise httpx_errors.failure(reason, self._request) from reason

    async def aclose(self) -> None:
        """Close the exchange, complete or not."""
        self._exchange.close()
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])


def _has_body(headers: httpx.Headers) -> bool:
    """Return whether a request has a body. Without either field it has none (RFC 9112 section 6.3)."""
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _wanted(request: httpx.Request) -> Request:
    url = request.url
    target: bytes = request.extensions.get("target", url.raw_path)
    return Request(
        method=request.method,
        scheme=url.scheme,
        authority=url.netloc.decode("ascii"),
        path_with_query=target.decode("latin-1"),
        headers=tuple((name, value) for name, value in request.headers.raw if name.lower() not in _CONNECTION_FIELDS),
    )


def _options(request: httpx.Request) -> Options:
    extensions = request.extensions
    timeouts: dict[str, Any] = extensions.get("timeout", {})
    return Options(
        connect_timeout_ns=_shortest_ns(timeouts.get("connect")),
        first_byte_timeout_ns=_shortest_ns(timeouts.get("read"), extensions.get(FIRST_BYTE_TIMEOUT)),
        between_bytes_timeout_ns=_shortest_ns(timeouts.get("read"), extensions.get(BETWEEN_BYTES_TIMEOUT)),
    )


def _shortest_ns(*seconds: float | None) -> int | None:
    given = [value for value in seconds if value is not None]
    return int(min(given) * 1e9) if given else None

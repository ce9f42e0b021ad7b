"""Sends a guest's requests through a transport of httpx that the operator or a script gives.

This module is loaded only if there is a transport. Without one, requests do not pass through any of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import httpx2 as httpx

from hostfuncs.account import Account
from hostfuncs.ending import GuestEnded
from hostfuncs.outbound import httpx_errors
from hostfuncs.outbound.admission import Refused
from hostfuncs.outbound.attempt import Attempt
from hostfuncs.outbound.errors import ErrorCode, OutboundError, Phase
from hostfuncs.outbound.exchange import Exchange
from hostfuncs.outbound.exchanges import Exchanges
from hostfuncs.outbound.fields import is_field_name, is_field_value
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.transport import BETWEEN_BYTES_TIMEOUT, FIRST_BYTE_TIMEOUT, RULE, TRAILERS, PolicyTransport
from hostfuncs.outbound.values import MIB, Fields, OutboundLimits, UsageRecord

if TYPE_CHECKING:
    from hostfuncs.outbound.body import RequestBody
    from hostfuncs.outbound.sender import Outbound

Transport = httpx.AsyncBaseTransport
Factory = Callable[[Transport], Transport]
"""Makes a transport around the inner one, a PolicyTransport."""
Report = Callable[[BaseException], None]
"""Called with an exception of a transport that is not one of httpx's."""

_REPORT_EVERY_NS = 1_000_000_000
_CLOSE_S = 1.0
"""The time that a transport may take to close a response. Seconds."""
_PIECE_BYTES = 64 * 1024
_NO_CONTENT = frozenset({204, 304})
_CODING_FIELDS = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
"""The fields that describe the coding of content, and the length of coded content."""


class HttpxAdapter:
    """Adapts a transport of httpx to the runs of a guest: one per binding in a worker, or per linked guest in a script.

    Parameters:
        transport: the transport, or a function that takes the inner transport and returns a transport around it.
        report: called, at most once per second, with an exception of the transport that is not one of httpx's.

    Raises:
        TypeError: `transport` is neither, or the function returned something else.
        Exception: any exception of the function.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | Factory, report: Report) -> None:
        self.inner = PolicyTransport()
        if not isinstance(transport, httpx.AsyncBaseTransport):
            if not callable(transport):
                raise TypeError(
                    f"transport is a {type(transport).__name__}; give an httpx2.AsyncBaseTransport, or a function that "
                    "returns one and takes the inner transport"
                )
            made = transport(self.inner)
            if not isinstance(made, httpx.AsyncBaseTransport):
                raise TypeError(
                    f"the function given as transport returned a {type(made).__name__}, "
                    "not an httpx2.AsyncBaseTransport"
                )
            transport = made
        self.transport = transport
        self._report = report
        self._reported_ns = -_REPORT_EVERY_NS

    def __repr__(self) -> str:
        return f"<HttpxAdapter {type(self.transport).__name__} around {self.inner!r}>"

    def begin(
        self,
        outbound: Outbound,
        policy: Policy,
        limits: OutboundLimits,
        deadline_ns: int,
        check: Callable[[], None] | None = None,
        account: Account | None = None,
    ) -> Exchanges:
        """Open the requests of one invocation. See `Outbound.begin` for the parameters."""
        exchanges = TransportExchanges(outbound, policy, limits, deadline_ns, check, account or Account(64 * MIB))
        exchanges.adapter = self
        self.inner.enter(exchanges)
        return exchanges

    def report(self, failed: BaseException) -> None:
        """Report an exception of the transport, unless another was reported within the last second."""
        now = time.monotonic_ns()
        if now - self._reported_ns >= _REPORT_EVERY_NS:
            self._reported_ns = now
            self._report(failed)


class TransportExchange(Exchange):
    """A guest's request that is answered by a transport of httpx."""

    _owner: TransportExchanges

    def begin(self) -> None:
        """Start it, in a task, because code that is written for httpx expects one."""
        self.begun = True
        self._begin_task()

    def expire(self) -> None:
        """End a wait that took too long. The guest gets the error even if the transport ignores the cancellation."""
        self._fail(TimeoutError())
        super().expire()

    async def _exchange(self) -> None:
        attempt = Attempt(
            plan=self.plan,
            account=self._owner.account,
            policy=self._owner.policy,
            headers=[],
            enter=self._enter,
            fail=self._fail_from_body,
        )
        self._phase = Phase.HEAD
        self.due = self._owner.due(self._seconds(Phase.RESOLVING) + self._seconds(Phase.HEAD))
        try:
            response = await self._owner.adapter.transport.handle_async_request(self._request())
            reply = _Reply(response, attempt, self.plan.method)
            try:
                reply.check()
                await self._receive(reply, attempt)
            finally:
                self._pause()
                await reply.release()
        except GuestEnded:
            raise
        except BaseException as failed:
            # Even SystemExit ends only the request. An error that follows a cancellation is not the transport's fault.
            if self._cancelled:
                raise asyncio.CancelledError from failed
            raise self._translated(failed) from failed
        self.body.end(attempt.trailers)

    def _translated(self, failed: BaseException) -> OutboundError:
        """Return the error code for an exception of the transport."""
        known = httpx_errors.cause_of(failed)
        if known is not None:
            self.denied = known.reason if isinstance(known, Refused) else ""
            return known
        code = httpx_errors.code_of(failed, self._phase)
        if code is None:
            self._owner.adapter.report(failed)
            code = ErrorCode("internal-error", type(failed).__name__)
        return OutboundError(code)

    def _request(self) -> httpx.Request:
        plan, body = self.plan, self._request_body
        connect, head, pieces = (self._seconds(phase) for phase in (Phase.RESOLVING, Phase.HEAD, Phase.BODY))
        extensions = {
            "timeout": {"connect": connect, "read": max(head, pieces), "write": pieces, "pool": connect},
            FIRST_BYTE_TIMEOUT: head,
            BETWEEN_BYTES_TIMEOUT: pieces,
            RULE: plan.rule,
            TRAILERS: lambda: body.trailers if body is not None else (),
        }
        target = plan.target
        if target == b"*":
            extensions["target"] = target
            target = b"/"
        request = httpx.Request(
            plan.method,
            f"{plan.origin[0]}://{plan.authority.header.decode('ascii')}{target.decode('ascii')}",
            headers=self._wire_headers(),
            stream=httpx.ByteStream(b"") if body is None else _Written(body),
            extensions=extensions,
        )
        # Methods are case-sensitive (RFC 9110 section 9.1), but httpx writes them in capitals.
        request.method = plan.method
        return request


class _Written(httpx.AsyncByteStream):
    """The body of the guest's request, as httpx reads it."""

    def __init__(self, body: RequestBody) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._body)


class _Reply:
    """A response of httpx's."""

    def __init__(self, response: httpx.Response, attempt: Attempt, method: str) -> None:
        if not isinstance(response, httpx.Response):
            raise TypeError(f"the transport returned a {type(response).__name__}, not an httpx2.Response")
        self._response = response
        self._stream: object = response.stream
        self.status = response.status_code
        self.headers: Fields = tuple(response.headers.raw)
        if response.is_stream_consumed and not isinstance(response.stream, httpx.ByteStream):
            # The transport has read the response. Its content is decoded then, and its stream is empty.
            self._stream = httpx.ByteStream(response.content)
            self.headers = tuple(line for line in self.headers if line[0].lower() not in _CODING_FIELDS)
        self._attempt = attempt
        # RFC 9110 section 6.4.1.
        self._empty = method == "HEAD" or self.status in _NO_CONTENT
        self._chunks: AsyncIterator[bytes] | None = None
        self._rest = memoryview(b"")

    def check(self) -> None:
        """Raise OutboundError or ValueError if a guest cannot be given this response."""
        if self.status == 101:
            raise OutboundError(ErrorCode("HTTP-upgrade-failed"))
        if not 200 <= self.status <= 599:
            raise ValueError(f"the transport's response has the status {self.status}; 200 to 599 are possible")
        if not all(is_field_name(name) and is_field_value(value) for name, value in self.headers):
            raise OutboundError(ErrorCode("HTTP-protocol-error"))

    async def next_data(self) -> bytes | None:
        """See `attempt.Reply`."""
        if not self._empty:
            if self._chunks is None:
                stream = self._stream
                if not isinstance(stream, httpx.AsyncByteStream):
                    raise TypeError("the body of the transport's response is synchronous; give it an async iterator")
                self._chunks = aiter(stream)
            chunk: bytes | None = None
            if not self._rest:
                chunk = await anext(self._chunks, None)
                self._rest = memoryview(chunk or b"")
            if self._rest or chunk is not None:
                # A transport may return a whole body at once. The guest gets it in pieces.
                piece, self._rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
                return bytes(piece)
        trailers: Callable[[], Fields] | None = self._response.extensions.get(TRAILERS)
        if trailers is not None:
            self._attempt.trailers = tuple(trailers())
        return None

    async def release(self) -> None:
        """See `attempt.Reply`. This one may wait."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._response.aclose()
        except TimeoutError:
            raise RuntimeError(f"the transport did not close its response within {_CLOSE_S:.0f} s") from None


class TransportExchanges(Exchanges):
    """The requests of one invocation that a transport answers, and those that it sends through the inner transport."""

    _exchange_type = TransportExchange
    adapter: HttpxAdapter

    def __init__(
        self,
        outbound: Outbound,
        policy: Policy,
        limits: OutboundLimits,
        deadline_ns: int,
        check: Callable[[], None] | None,
        account: Account,
    ) -> None:
        super().__init__(outbound, policy, limits, deadline_ns, check, account)
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._inner: set[Exchange] = set()

    def adopt(self, exchange: Exchange) -> None:
        """Inner transport: add an exchange that is about to begin and is not a request of the guest's own."""
        self._inner.add(exchange)
        self._live[exchange] = None

    async def changed(self, holds: Callable[[], bool]) -> None:
        """Inner transport: wait until a condition holds. It is checked again after each `notify`."""
        while not holds():
            waiter = self.loop.create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)

    def notify(self) -> None:
        """See Exchanges."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        super().notify()

    def ended(self, exchange: Exchange, outcome: str, denied: str = "") -> None:
        """See Exchanges. Only the guest's own requests are counted and recorded, and not those of the transport."""
        if exchange in self._inner:
            self._inner.discard(exchange)
            self._live.pop(exchange, None)
            self.notify()
        else:
            super().ended(exchange, outcome, denied)

    def close(self) -> list[UsageRecord]:
        """See Exchanges."""
        try:
            return super().close()
        finally:
            self.adapter.inner.enter(None)

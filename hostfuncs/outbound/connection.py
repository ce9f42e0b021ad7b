"""A connection from the pool's point of view: not yet standing, then HTTP/1.1 or HTTP/2, whichever the origin chose."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import h2.events
import h2.exceptions
import httpcore2

from hostfuncs.outbound.errors import OutboundError, Phase, Unanswered, Unresolved
from hostfuncs.outbound.http1 import Http1Connection
from hostfuncs.outbound.network import Resolver, Stream, connect, parse_addresses
from hostfuncs.outbound.passage import Passage
from hostfuncs.outbound.policy import Denied
from hostfuncs.outbound.tls import Contexts


class AddressDenied(OutboundError):  # noqa: N818 - a decision, not a malfunction
    """Every address of the name was refused by the policy."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.code)
        self.denied = denied


class Http2Connection(httpcore2.AsyncHTTP2Connection):
    """httpcore2's HTTP/2 connection, with trailers in both directions and requests that are sent while answered.

    The overridden methods are not part of httpcore2's public interface; tests/host/test_outbound_http2.py notices when
    one of them changes.
    """

    def __init__(self, origin: httpcore2.Origin, stream: Stream, keepalive_s: float) -> None:
        super().__init__(origin=origin, stream=stream, keepalive_expiry=keepalive_s)
        self._passages: dict[int, Passage] = {}
        self._senders: dict[int, asyncio.Task[None]] = {}
        self._stream = stream
        self._begun = 0

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """As httpcore2's; tells the passage whether the connection had served before."""
        request.extensions["passage"].reused = self._begun > 0
        self._begun += 1
        return await super().handle_async_request(request)

    def has_expired(self) -> bool:
        """As httpcore2's, and when the origin has closed while the loop stood still."""
        return super().has_expired() or (self.is_idle() and self._stream.gone())

    async def _send_request_body(self, request: httpcore2.Request, stream_id: int) -> None:
        passage: Passage = request.extensions["passage"]
        self._passages[stream_id] = passage
        if passage.body is None:
            return
        if passage.body.finished and passage.body.held <= 16 * 1024:
            await super()._send_request_body(request=request, stream_id=stream_id)
            return
        # On its own, so that the response can be read meanwhile.
        self._senders[stream_id] = asyncio.get_running_loop().create_task(self._send_along(request, stream_id))

    async def _send_along(self, request: httpcore2.Request, stream_id: int) -> None:
        try:
            await super()._send_request_body(request=request, stream_id=stream_id)
        except OutboundError as exc:
            request.extensions["passage"].fail(exc)
        except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError, h2.exceptions.H2Error):
            # The reading side meets the same end and says which it is.
            return

    async def _send_end_stream(self, request: httpcore2.Request, stream_id: int) -> None:
        passage: Passage = request.extensions["passage"]
        trailers = passage.body.trailers if passage.body is not None else ()
        if not trailers:
            await super()._send_end_stream(request, stream_id)
            return
        self._h2_state.send_headers(stream_id, [(name.lower(), value) for name, value in trailers], end_stream=True)
        await self._write_outgoing_data(request)

    async def _read_incoming_data(self, request: httpcore2.Request) -> list[Any]:
        try:
            events = await super()._read_incoming_data(request)
        except httpcore2.RemoteProtocolError as exc:
            # The only reason it has for this one is that the origin closed the connection.
            raise Unanswered from exc
        for event in events:
            if isinstance(event, h2.events.TrailersReceived) and event.stream_id in self._passages:
                self._passages[event.stream_id].trailers = tuple((bytes(n), bytes(v)) for n, v in event.headers or ())
        return events

    async def _response_closed(self, stream_id: int) -> None:
        self._passages.pop(stream_id, None)
        sender = self._senders.pop(stream_id, None)
        if sender is not None and not sender.done():
            # Not awaited: nothing here may be interrupted half-way.
            sender.cancel()
        unfinished = stream_id in self._events and not self._h2_state_closed(stream_id)
        if unfinished:
            # Otherwise the origin goes on sending into a window nobody opens, and the connection stalls for all.
            try:
                self._h2_state.reset_stream(stream_id, error_code=8)  # CANCEL
                self._stream.push(self._h2_state.data_to_send())
            except (OSError, h2.exceptions.H2Error):
                self._connection_error = True
        await super()._response_closed(stream_id)

    def _h2_state_closed(self, stream_id: int) -> bool:
        stream = self._h2_state.streams.get(stream_id)
        return stream is None or bool(stream.closed)


class Connection(httpcore2.AsyncConnectionInterface):
    """One place in the pool."""

    def __init__(
        self,
        origin: httpcore2.Origin,
        *,
        contexts: Contexts,
        resolver: Resolver,
        keepalive_s: float,
        http2: bool,
        make_room: Callable[[], Awaitable[None]],
        opened: Callable[[Stream], None],
        era: Callable[[], int],
    ) -> None:
        self._origin = origin
        self._contexts = contexts
        self._resolver = resolver
        self._keepalive_s = keepalive_s
        self._http2 = http2 and origin.scheme == b"https"
        self._make_room = make_room
        self._opened = opened
        self._era = era
        self._lock = asyncio.Lock()
        self._inner: Http1Connection | Http2Connection | None = None
        self._failed = False

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Connect if that is still to do, then send the request."""
        passage: Passage = request.extensions["passage"]
        if self._inner is None:
            try:
                async with self._lock:
                    if self._inner is None:
                        self._inner = await self._open(passage)
            except BaseException:
                self._failed = True
                raise
        passage.enter(Phase.HEAD)
        return await self._inner.handle_async_request(request)

    async def _open(self, passage: Passage) -> Http1Connection | Http2Connection:
        host, port, scheme = self._origin.host.decode("ascii"), self._origin.port, self._origin.scheme.decode("ascii")
        passage.enter(Phase.RESOLVING)
        addresses = parse_addresses([host.strip("[]")])
        if not addresses:
            addresses = parse_addresses(await self._resolver.resolve(host, port))
        if not addresses:
            raise Unresolved
        allowed = []
        denied: Denied | None = None
        for address in addresses:
            try:
                passage.policy.check_address(passage.rule, scheme, port, address)
            except Denied as exc:
                denied = exc
            else:
                allowed.append(address)
        if not allowed:
            assert denied is not None
            raise AddressDenied(denied)
        passage.enter(Phase.CONNECTING)
        await self._make_room()
        stream = await connect(allowed, port)
        self._opened(stream)
        try:
            if scheme == "https":
                context = self._contexts.for_origin(scheme, host, port)
                await stream.start_tls(context, server_hostname=host.strip("[]"))
            ssl_object = stream.get_extra_info("ssl_object")
            if ssl_object is not None and ssl_object.selected_alpn_protocol() == "h2":
                return Http2Connection(self._origin, stream, self._keepalive_s)
        except BaseException:
            await stream.aclose()
            raise
        return Http1Connection(self._origin, stream, self._keepalive_s, self._era)

    async def aclose(self) -> None:
        """Close at once."""
        if self._inner is not None:
            await self._inner.aclose()
        else:
            self._failed = True

    # httpcore2.AsyncConnectionInterface: what the pool asks

    def can_handle_request(self, origin: httpcore2.Origin) -> bool:
        """Whether it leads there."""
        return origin == self._origin

    def is_connected(self) -> bool:
        """Whether a connection stands."""
        return self._inner is not None and self._inner.is_connected()

    def is_available(self) -> bool:
        """Whether it can take a(nother) request; one that may become HTTP/2 can take any number."""
        if self._inner is None:
            return self._http2 and not self._failed
        return self._inner.is_available()

    def has_expired(self) -> bool:
        """Whether it must not be used again."""
        return self._failed if self._inner is None else self._inner.has_expired()

    def is_idle(self) -> bool:
        """Whether nothing runs on it."""
        return self._failed if self._inner is None else self._inner.is_idle()

    def can_multiplex(self) -> bool:
        """Whether it takes several requests at once."""
        return self._inner is not None and self._inner.can_multiplex()

    def is_closed(self) -> bool:
        """Whether it is closed or never came to be."""
        return self._failed if self._inner is None else self._inner.is_closed()

    def info(self) -> str:
        """For people."""
        if self._inner is None:
            return "CONNECTION FAILED" if self._failed else "CONNECTING"
        return self._inner.info()

    def __repr__(self) -> str:
        return f"<Connection [{self.info()}]>"

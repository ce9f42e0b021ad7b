"""Connections that httpcore2 knows how to serve: HTTP/2, and whatever goes through a proxy.

Loaded only where the settings ask for one of them: `sender.warm`. Everything in here runs in asyncio's tasks, because
httpcore2's locks want one.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Any, cast

# httpcore2's locks load this with the first request; loaded before the fork, its pages are shared.
import anyio._backends._asyncio  # noqa: F401
import h2.events
import h2.exceptions
import httpcore2

from hostfuncs.outbound.authority import DEFAULT_PORTS, Origin
from hostfuncs.outbound.errors import OutboundError, Phase, Unanswered
from hostfuncs.outbound.http1 import Http1Connection
from hostfuncs.outbound.network import Stream
from hostfuncs.outbound.opening import Opener
from hostfuncs.outbound.passage import Connection, Occupied, Passage, Reply
from hostfuncs.outbound.proxy import parse_proxy
from hostfuncs.outbound.shapes import Fields, Settings
from hostfuncs.outbound.tls import Contexts

Maker = Callable[[Origin], Connection]


def maker(settings: Settings, contexts: Contexts, opener: Opener, plain: Maker) -> Maker:
    """What makes connections under settings that ask for HTTP/2 or a proxy; `plain` makes those that are neither."""
    if settings.proxy is None:
        keepalive_s = settings.keepalive_ms / 1000
        return lambda origin: Negotiated(origin, opener, keepalive_s) if origin[0] == "https" else plain(origin)
    host, port, auth = parse_proxy(settings.proxy)
    # Its pool is used for nothing but to choose between its two kinds of proxied connections.
    chooser = httpcore2.AsyncConnectionPool(
        ssl_context=contexts.common,
        proxy=httpcore2.Proxy(httpcore2.URL(scheme=b"http", host=host, port=port, target=b"/"), auth),
        keepalive_expiry=settings.keepalive_ms / 1000,
        http2=settings.http2,
    )
    return lambda origin: Foreign(origin, chooser.create_connection(_foreign_origin(origin)), opener)


def _foreign_origin(origin: Origin) -> httpcore2.Origin:
    scheme, host, port = origin
    return httpcore2.Origin(scheme=scheme.encode("ascii"), host=host.encode("ascii"), port=port)


class Foreign:
    """A connection of httpcore2's as the pool sees connections.

    Parameters:
        origin: where it leads.
        inner: the connection.
        opener: its tasks close what cannot be awaited.
        standing: whether it has been opened: then its request begins with the response's time.
    """

    def __init__(
        self, origin: Origin, inner: httpcore2.AsyncConnectionInterface, opener: Opener, *, standing: bool = False
    ) -> None:
        self.origin = origin
        self._inner = inner
        self._opener = opener
        self._standing = standing
        self._begun = 0

    def __repr__(self) -> str:
        return f"<Foreign {self._inner.info()}>"

    async def request(self, passage: Passage) -> Reply:
        """See `passage.Connection`."""
        if self._standing:
            passage.reused = self._begun > 0
            self._begun += 1
            passage.enter(Phase.HEAD)
        try:
            response = await self._inner.handle_async_request(_wire_request(passage))
        except httpcore2.ConnectionNotAvailable:
            raise Occupied from None
        except httpcore2.RemoteProtocolError:
            passage.lost = True
            raise
        return _ForeignReply(response)

    def close(self) -> None:
        """See `passage.Connection`."""
        self._opener.spawn(self._aclose())

    async def _aclose(self) -> None:
        with contextlib.suppress(OSError, httpcore2.NetworkError, httpcore2.ProtocolError, h2.exceptions.H2Error):
            await self._inner.aclose()

    def idle(self) -> bool:
        """See `passage.Connection`."""
        return self._inner.is_idle() and not self._inner.is_closed()

    def stale(self) -> bool:
        """See `passage.Connection`."""
        return self._inner.is_closed() or self._inner.has_expired()

    def shares(self) -> bool:
        """See `passage.Connection`."""
        return self._inner.is_available() and not self._inner.is_closed()


class _ForeignReply:
    """A response of httpcore2's."""

    def __init__(self, response: httpcore2.Response) -> None:
        self.status = response.status
        self.headers: Fields = tuple((bytes(name), bytes(value)) for name, value in response.headers)
        self._response = response
        assert isinstance(response.stream, AsyncIterable)
        self._chunks = cast("AsyncGenerator[bytes, None]", aiter(response.stream))

    async def next_data(self) -> bytes | None:
        """See `passage.Reply`."""
        return await anext(self._chunks, None)

    async def release(self) -> None:
        """See `passage.Reply`."""
        try:
            # Closed here and not by the collector, which would leave that to the loop's next run.
            await self._chunks.aclose()
        finally:
            await self._response.aclose()


def _wire_request(passage: Passage) -> httpcore2.Request:
    scheme, host, port = passage.plan.origin
    return httpcore2.Request(
        method=passage.plan.method.encode("ascii"),
        url=httpcore2.URL(
            scheme=scheme.encode("ascii"),
            host=host.encode("ascii"),
            port=None if port == DEFAULT_PORTS[scheme] else port,
            target=passage.plan.target,
        ),
        headers=passage.headers,
        content=b"" if passage.body is None else passage.body,
        extensions={"passage": passage, "timeout": passage.timeouts or {}},
    )


class Http2Connection(httpcore2.AsyncHTTP2Connection):
    """httpcore2's HTTP/2 connection, with trailers in both directions and requests that are sent while answered.

    The overridden methods are not part of httpcore2's public interface; tests/host/test_outbound_http2.py notices when
    one of them changes.
    """

    def __init__(self, origin: httpcore2.Origin, stream: Stream, keepalive_s: float) -> None:
        # A Stream has all that is asked of it.
        network_stream = cast("httpcore2.AsyncNetworkStream", stream)
        super().__init__(origin=origin, stream=network_stream, keepalive_expiry=keepalive_s)
        self._passages: dict[int, Passage] = {}
        self._senders: dict[int, asyncio.Task[None]] = {}
        self._stream = stream

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


class Negotiated:
    """A connection to an https origin that is offered HTTP/2: not yet standing, then whichever the origin chose.

    Whoever wants the same origin meanwhile waits for it, since it may become one that serves them all.
    """

    def __init__(self, origin: Origin, opener: Opener, keepalive_s: float) -> None:
        self.origin = origin
        self._opener = opener
        self._keepalive_s = keepalive_s
        self._lock = asyncio.Lock()
        self._inner: Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Negotiated {self._inner!r}>"

    async def request(self, passage: Passage) -> Reply:
        """See `passage.Connection`."""
        if self._inner is None:
            async with self._lock:
                if self._inner is None:
                    await self._opener.spawn(self._open(passage))
        assert self._inner is not None
        return await self._inner.request(passage)

    async def _open(self, passage: Passage) -> None:
        stream = await self._opener.open(self.origin, passage)
        ssl_object = stream.get_extra_info("ssl_object")
        if ssl_object is not None and ssl_object.selected_alpn_protocol() == "h2":
            inner = Http2Connection(_foreign_origin(self.origin), stream, self._keepalive_s)
            self._inner = Foreign(self.origin, inner, self._opener, standing=True)
        else:
            self._inner = Http1Connection(self.origin, self._opener, self._keepalive_s, stream)
        if self._closed:
            self._inner.close()

    def close(self) -> None:
        """See `passage.Connection`."""
        self._closed = True
        if self._inner is not None:
            self._inner.close()

    def idle(self) -> bool:
        """See `passage.Connection`."""
        return self._inner is not None and self._inner.idle()

    def stale(self) -> bool:
        """See `passage.Connection`."""
        return self._closed or self._inner is None or self._inner.stale()

    def shares(self) -> bool:
        """See `passage.Connection`."""
        if self._inner is None:
            return not self._closed
        return self._inner.shares()

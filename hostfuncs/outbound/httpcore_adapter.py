"""Connections of httpcore2, by its public interface: for HTTP/2, and for all requests through a proxy.

`sender.warm` loads this module only if the settings need it. All of it runs in asyncio's tasks, because httpcore2's
locks need one. docs/outbound.md lists what httpcore2 cannot do.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import cast

# httpcore2's locks load this with the first request. Loaded before the fork, its pages are shared.
import anyio._backends._asyncio  # noqa: F401
import h2.config
import h2.errors
import h2.events
import h2.exceptions
import h11
import httpcore2

from hostfuncs.outbound import errors
from hostfuncs.outbound.attempt import Attempt, Connection, Occupied, Reply
from hostfuncs.outbound.authority import DEFAULT_PORTS, Origin
from hostfuncs.outbound.connector import Connector
from hostfuncs.outbound.errors import Cut, ErrorCode, OutboundError, Phase, Unanswered, within
from hostfuncs.outbound.fields import frames_twice, is_field_name, is_field_value
from hostfuncs.outbound.http1 import Http1Connection
from hostfuncs.outbound.httpcore_network import Backend, Network
from hostfuncs.outbound.proxy import parse_exception, parse_proxy
from hostfuncs.outbound.tls import Contexts
from hostfuncs.outbound.values import Fields, Settings

Maker = Callable[[Origin], Connection]


def maker(settings: Settings, contexts: Contexts, connector: Connector, plain: Maker) -> Maker:
    """Return a factory of connections for settings with HTTP/2 or a proxy.

    Parameters:
        settings: the settings.
        contexts: the TLS contexts.
        connector: opens the streams.
        plain: makes the connections that need neither.
    """
    keepalive_s = settings.keepalive_ms / 1000

    def direct(origin: Origin) -> Connection:
        if settings.http2 and origin[0] == "https":
            return NegotiatedConnection(origin, connector, keepalive_s)
        return plain(origin)

    if settings.proxy is None:
        return direct
    host, port, auth = parse_proxy(settings.proxy)
    exceptions = [parse_exception(text) for text in settings.no_proxy]

    def proxied(origin: Origin) -> Connection:
        if any(matches(origin) for matches in exceptions):
            return direct(origin)
        backend = Backend(connector)
        # The pool of httpcore2 is used only to choose between its two kinds of proxied connections.
        chooser = httpcore2.AsyncConnectionPool(
            ssl_context=contexts.common,
            proxy=httpcore2.Proxy(httpcore2.URL(scheme=b"http", host=host, port=port, target=b"/"), auth),
            keepalive_expiry=keepalive_s,
            http2=settings.http2,
            network_backend=backend,
        )
        return HttpcoreConnection(origin, chooser.create_connection(_httpcore_origin(origin)), backend)

    return proxied


def _httpcore_origin(origin: Origin) -> httpcore2.Origin:
    scheme, host, port = origin
    return httpcore2.Origin(scheme=scheme.encode("ascii"), host=host.encode("ascii"), port=port)


class _Http2(httpcore2.AsyncHTTP2Connection):
    """httpcore2's HTTP/2 connection, with h2's checks of header sections (RFC 9113, 8.2 and 8.3)."""

    CONFIG = h2.config.H2Configuration(validate_inbound_headers=True)


class HttpcoreConnection:
    """Adapts a connection of httpcore2 to `attempt.Connection`.

    Parameters:
        origin: its origin.
        inner: the connection of httpcore2.
        backend: opens its stream; None if `network` is given.
        network: the stream of an HTTP/2 connection that is connected already. The guest's account counts its bytes.
    """

    def __init__(
        self,
        origin: Origin,
        inner: httpcore2.AsyncConnectionInterface,
        backend: Backend | None = None,
        network: Network | None = None,
    ) -> None:
        self.origin = origin
        self._inner = inner
        self._backend = backend
        self._direct = network
        self._begun = 0
        self._retired = False

    def __repr__(self) -> str:
        return f"<HttpcoreConnection {self._inner.info()}>"

    @property
    def network(self) -> Network | None:
        """Its stream; None if it is not connected yet."""
        return self._direct if self._backend is None else self._backend.network

    async def request(self, attempt: Attempt) -> Reply:
        """See `attempt.Connection`."""
        attempt.reused = self._begun > 0
        self._begun += 1
        if self.network is not None:
            self.network.count(attempt.account)
        if self._backend is not None and self._backend.network is None:
            self._backend.attempt = attempt
        else:
            attempt.enter(Phase.HEAD)
        try:
            response = await self._inner.handle_async_request(_wire_request(attempt, proxied=self._backend is not None))
        except httpcore2.ConnectionNotAvailable:
            self._retired = True
            raise Occupied from None
        except BaseException as failure:
            # httpcore2 does not reset the HTTP/2 stream, so the origin goes on to send it.
            self._retired = self._retired or not is_reset(failure)
            self.ended()
            if isinstance(failure, ValueError) and not isinstance(failure, OSError):
                # httpcore2 raises this for a status that is not a number.
                raise OutboundError(ErrorCode("HTTP-protocol-error")) from failure
            if isinstance(failure, httpcore2.RemoteProtocolError):
                if self.gone():
                    raise Unanswered from failure
                attempt.lost = is_left_undone(failure)
            raise
        if is_malformed(response):
            self.retire()
            raise OutboundError(ErrorCode("HTTP-protocol-error"))
        return _HttpcoreReply(self, response)

    def gone(self) -> bool:
        """Return whether its stream has ended."""
        return self.network is not None and self.network.gone()

    def ended(self) -> None:
        """Record the end of a request. After the last one, no bytes that were read are held any more."""
        if self.network is not None and self._inner.is_idle():
            self.network.settle()

    def retire(self) -> None:
        """Use it for no further request, because its origin goes on to send a response that was given up."""
        self._retired = True

    def close(self) -> None:
        """See `attempt.Connection`."""
        self._retired = True
        if self.network is not None:
            self.network.settle()
            self.network.abort()

    def idle(self) -> bool:
        """See `attempt.Connection`."""
        return not self._retired and self._inner.is_idle() and not self._inner.is_closed()

    def stale(self) -> bool:
        """See `attempt.Connection`."""
        return self._retired or self._inner.is_closed() or self._inner.has_expired() or self.gone()

    def shares(self) -> bool:
        """See `attempt.Connection`."""
        return not self._retired and self._inner.is_available() and not self._inner.is_closed()


class _HttpcoreReply:
    """Adapts a response of httpcore2 to `attempt.Reply`."""

    def __init__(self, connection: HttpcoreConnection, response: httpcore2.Response) -> None:
        self.status = response.status
        self.headers: Fields = tuple((bytes(name), bytes(value)) for name, value in response.headers)
        self._connection = connection
        self._response = response
        self._ended = False
        assert isinstance(response.stream, AsyncIterable)
        self._chunks = cast("AsyncGenerator[bytes, None]", aiter(response.stream))

    async def next_data(self) -> bytes | None:
        """See `attempt.Reply`."""
        try:
            chunk = await anext(self._chunks, None)
        except httpcore2.RemoteProtocolError as failure:
            self._ended = is_reset(failure)
            if self._connection.gone():
                raise Cut from failure
            raise
        if chunk is None:
            self._ended = True
        elif self._connection.network is not None:
            self._connection.network.delivered(len(chunk))
        return chunk

    async def release(self) -> None:
        """See `attempt.Reply`."""
        if not self._ended:
            self._connection.retire()
        try:
            # Closed here. The garbage collector would leave the closing to the next run of the event loop.
            await self._chunks.aclose()
        finally:
            await self._response.aclose()
            self._connection.ended()


def _wire_request(attempt: Attempt, *, proxied: bool) -> httpcore2.Request:
    scheme, host, port = attempt.plan.origin
    target = attempt.plan.target
    if proxied and scheme == "http" and target == b"*":
        # RFC 9112, section 3.2.4: with `*` alone, the proxy itself would answer.
        target = b"http://" + attempt.plan.authority.header
    return httpcore2.Request(
        method=attempt.plan.method.encode("ascii"),
        url=httpcore2.URL(
            scheme=scheme.encode("ascii"),
            host=host.encode("ascii"),
            port=None if port == DEFAULT_PORTS[scheme] else port,
            target=target,
        ),
        headers=attempt.headers,
        content=b"" if attempt.body is None else attempt.body,
    )


def is_malformed(response: httpcore2.Response) -> bool:
    """Return whether a response has a status or field that no guest may get, although h2 and httpcore2 accept it."""
    if not 200 <= response.status <= 599 or frames_twice(response.headers):
        return True
    return any(
        not is_field_name(name) or not is_field_value(value) or value.strip(b" \t") != value
        for name, value in response.headers
    )


def is_reset(failure: BaseException) -> bool:
    """Return whether the origin reset the one HTTP/2 stream, and not the connection."""
    return bool(failure.args) and isinstance(failure.args[0], h2.events.StreamReset)


def is_left_undone(failure: BaseException) -> bool:
    """Return whether an HTTP/2 origin goes away, or refused the stream: RFC 9113, section 8.7, has these sent again."""
    event = failure.args[0] if failure.args else None
    return isinstance(event, h2.events.ConnectionTerminated) or (
        isinstance(event, h2.events.StreamReset) and event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
    )


class NegotiatedConnection:
    """A connection to an https origin that offers HTTP/2. Once it is connected, it speaks the origin's choice.

    Further requests to the same origin wait for it meanwhile, since it may be able to carry them all.
    """

    def __init__(self, origin: Origin, connector: Connector, keepalive_s: float) -> None:
        self.origin = origin
        self._connector = connector
        self._keepalive_s = keepalive_s
        self._lock = asyncio.Lock()
        self._inner: Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<NegotiatedConnection {self._inner!r}>"

    async def request(self, attempt: Attempt) -> Reply:
        """See `attempt.Connection`."""
        if self._inner is None:
            async with self._lock:
                if self._inner is None:
                    await self._connector.outbound.spawn(self._open(attempt))
        assert self._inner is not None
        return await self._inner.request(attempt)

    async def _open(self, attempt: Attempt) -> None:
        stream = await self._connector.open(self.origin, attempt)
        if stream.tls is not None and stream.tls.selected_alpn_protocol() == "h2":
            network = Network(stream)
            inner = _Http2(_httpcore_origin(self.origin), network, self._keepalive_s)
            self._inner = HttpcoreConnection(self.origin, inner, network=network)
        else:
            self._inner = Http1Connection(self.origin, self._connector, self._keepalive_s, stream)
        if self._closed:
            self._inner.close()

    def close(self) -> None:
        """See `attempt.Connection`."""
        self._closed = True
        if self._inner is not None:
            self._inner.close()

    def idle(self) -> bool:
        """See `attempt.Connection`."""
        return self._inner is not None and self._inner.idle()

    def stale(self) -> bool:
        """See `attempt.Connection`."""
        return self._closed or self._inner is None or self._inner.stale()

    def shares(self) -> bool:
        """See `attempt.Connection`."""
        if self._inner is None:
            return not self._closed
        return self._inner.shares()


# One row per exception type. The first that fits counts, so subclasses come before their base classes.
_TYPES: tuple[tuple[type[BaseException], str], ...] = (
    (httpcore2.ProxyError, "destination-unavailable"),
    (httpcore2.NetworkError, "connection-terminated"),
    (httpcore2.ProtocolError, "HTTP-protocol-error"),
    (h2.exceptions.H2Error, "HTTP-protocol-error"),
)


def code_of(failure: BaseException, phase: Phase) -> ErrorCode:
    """Return the error code of an exception of httpcore2 or h2. See `errors.code_of`."""
    if isinstance(failure, (httpcore2.NetworkError, httpcore2.ProtocolError)) and failure.args:
        # Their argument is the cause: an exception (through a proxy), or the event that ended an HTTP/2 stream.
        wrapped = failure.args[0]
        if isinstance(wrapped, (OSError, h11.RemoteProtocolError)):
            return errors.code_of(wrapped, phase)
        if isinstance(wrapped, h2.events.ConnectionTerminated):
            return within("connection-terminated", phase)
        if isinstance(wrapped, h2.events.StreamReset) and phase is Phase.BODY:
            return ErrorCode("HTTP-response-incomplete")
    for kind, name in _TYPES:
        if isinstance(failure, kind):
            return within(name, phase)
    return ErrorCode("internal-error", type(failure).__name__)


errors.name_library_failures(code_of)

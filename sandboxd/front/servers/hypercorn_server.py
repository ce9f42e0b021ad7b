"""Hypercorn's connections behind a listener of our own, so that the end of the server can come in steps.

Hypercorn's own `serve` stops listening and drops idle connections in one step: a request that is on its way on a kept
connection is lost. Here connections are read for a while after nothing is accepted any more; they learn from
`connection: close`, or from GOAWAY, that they are to be opened anew, which then reaches the successor.

Imported only where Hypercorn runs.
"""

import asyncio
import contextlib
import socket
import time
from functools import partial
from typing import Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.utils import wrap_app
from hyperframe.frame import GoAwayFrame

from sandboxd.front.http.bodies import CLOSE, HELD
from sandboxd.front.http.replies import reply_plain_error
from sandboxd.front.http.trace_headers import refused
from sandboxd.front.ports import Asgi, Message, Receive, Scope, Send
from sandboxd.front.servers import hypercorn_http1, hypercorn_http2, hypercorn_inbox
from sandboxd.front.servers.connections import LARGE_BYTES, Connections, probes_only
from sandboxd.front.servers.hypercorn_http2 import BoundedH2Protocol
from sandboxd.front.servers.idle_close import Ending, wait_for_answers, wait_until_closed
from sandboxd.front.servers.refusals import Refusal, Refusals
from sandboxd.front.servers.tls_accept import Streams, TlsAcceptor

_PIECE_BYTES = 16 * LARGE_BYTES
"""The pieces in which large parts of responses are handed over."""


async def serve(
    app: Asgi,
    listener: socket.socket,
    settings: Config,
    ending: Ending,
    registry: Connections,
    refusals: Refusals,
) -> None:
    """Serve until the server is to stop, then end in steps.

    Parameters:
        app: the application.
        listener: bound and listening; closed at once when the server is to stop.
        settings: Hypercorn's.
        ending: the steps.
        registry: told of every connection.
        refusals: told of callers that are turned away here.
    """
    hypercorn_http1.install(refusals)
    hypercorn_http2.install(refusals, registry.limits.body_timeout_s)
    hypercorn_inbox.install()
    connections: dict[asyncio.Task[Any], _Connection] = {}
    context = WorkerContext(None)
    loop = asyncio.get_running_loop()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        server = _Connection(app, loop, settings, context, {}, reader, writer)
        answering = app if registry.enter(server) else probes_only(app, refusals.add)
        framework: Any = _answering(answering, ending.stop, registry, server)  # typed by Hypercorn otherwise
        server.app = wrap_app(framework, settings.wsgi_max_body_size, "asgi")
        connections[task] = server
        try:
            await server
        except asyncio.CancelledError:
            pass  # by the end of `serve`, which is all that cancels it; asyncio's streams log what is cancelled here
        finally:
            del connections[task]
            registry.leave(server)

    async def send_goaways(*, idle_only: bool) -> None:
        for server in list(connections.values()):
            await _send_goaway(server, idle_only=idle_only)

    listening: asyncio.Server | None = None
    acceptor: TlsAcceptor | None = None
    if settings.ssl_enabled:
        tls = settings.create_ssl_context()
        assert tls is not None
        acceptor = TlsAcceptor(listener, tls, settings.ssl_handshake_timeout, registry, lambda _: Streams(accepted))
    else:
        listening = await asyncio.start_server(accepted, sock=listener, backlog=settings.backlog)

    async def stop_listening() -> None:
        if acceptor is not None:
            await acceptor.stop()
            listener.close()
        if listening is not None:
            listening.close()

    try:
        await ending.stop.wait()
        await stop_listening()
        await wait_until_closed(lambda: bool(connections), ending.idle_close_s, partial(send_goaways, idle_only=True))
        await send_goaways(idle_only=False)
        await context.terminated.set()
        await wait_for_answers(ending.answered, lambda: bool(connections))
    finally:
        await stop_listening()
        if acceptor is not None:
            acceptor.abort()
        # Aborted first: tasks in Hypercorn's `_close` would wait without end for callers who do not read.
        for server in list(connections.values()):
            server.abort()
        if connections:
            await asyncio.wait(set(connections), timeout=1)
        left = set(connections)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)


class _Connection(TCPServer):
    """Hypercorn's, but freed when the peer has closed it: Hypercorn keeps its descriptor for the idle timeout.

    It also tells `Connections` what it asks for.
    """

    _ended = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        name = self.writer.get_extra_info("peername")
        self.peer: str = name[0] if isinstance(name, tuple) else ""
        self._idle_since: float | None = time.monotonic()
        self._written = 0
        self.held = 0
        """Bytes of the large responses under way: each is in memory until all of it was taken."""
        self.large = 0
        """Large responses under way."""

    async def _read_data(self) -> None:
        await super()._read_data()
        self._ended = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """See Hypercorn. Ending streams would set the idle timeout going again."""
        if isinstance(event, RawData):
            self._written += len(event.data)
        elif isinstance(event, Updated):
            if self._ended:
                return
            self._idle_since = time.monotonic() if event.idle else None
        await super().protocol_send(event)

    @property
    def http2(self) -> BoundedH2Protocol | None:
        """Its protocol, if that is HTTP/2."""
        protocol = getattr(getattr(self, "protocol", None), "protocol", None)
        return protocol if isinstance(protocol, BoundedH2Protocol) else None

    def idle_since(self) -> float | None:
        """See `Connection`."""
        return self._idle_since

    def overdue(self, now: float) -> None:
        """See `Connection`. Hypercorn closes idle connections, and those that owe a head."""
        if self.http2 is not None:
            self.http2.reset_lingering(now)

    def unread(self) -> int:
        """See `Connection`."""
        buffered = 0 if self.http2 is None else self.http2.buffered()
        return self.held + buffered + self.writer.transport.get_write_buffer_size()

    def sent(self) -> int:
        """See `Connection`."""
        return self._written - self.writer.transport.get_write_buffer_size()

    def close(self) -> None:
        """See `Connection`."""
        self.writer.close()

    def abort(self) -> None:
        """See `Connection`."""
        self.writer.transport.abort()


def _answering(app: Asgi, stop: asyncio.Event, registry: Connections, server: _Connection) -> Asgi:
    """Return the application of one connection. Once `stop` is set, HTTP/1 answers end the connection.

    What a response takes is counted before any of it is sent, since a caller with many streams, who reads nothing, has
    all of them wait. Large parts are handed over in pieces, each when the one before is nearly sent: Hypercorn copies
    what it is given into a buffer of the stream.
    """

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        closes = scope["http_version"] != "2"
        held = 0
        started = False

        def hold(size: int) -> None:
            nonlocal held
            server.large += not held
            server.held += size - held
            held = size
            registry.wrote(server)
            if server.large > 1 and server.unread() > registry.limits.max_unread_bytes:
                registry.cut(server, Refusal.UNREAD)

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            body = message.get("body", b"")
            size = message.get(HELD) or len(body)
            if size >= LARGE_BYTES and size > held:
                hold(size)
            if server.writer.is_closing():
                return
            if closes and stop.is_set() and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            for at in range(_PIECE_BYTES, len(body), _PIECE_BYTES):
                await send({**message, "body": body[at - _PIECE_BYTES : at], "more_body": True})
                if server.writer.is_closing():
                    return
            if len(body) > _PIECE_BYTES:
                message = {**message, "body": body[(len(body) - 1) // _PIECE_BYTES * _PIECE_BYTES :]}
            await send(message)

        try:
            await app(scope, receive, sending)
        except Exception:
            if not started:
                text = "internal failure of the server"
                last = [CLOSE] if closes else []
                await reply_plain_error(sending, 500, text, [*last, *refused(scope, 500, text)])
            raise  # Hypercorn logs the traceback
        finally:
            server.large -= bool(held)
            server.held -= held

    return answering


async def _send_goaway(server: _Connection, *, idle_only: bool) -> None:
    """GOAWAY for an HTTP/2 connection: streams up to the last one seen are answered, later ones were never begun.

    An idle connection is closed with it. One that is busy is left for its streams to end, and only told if
    `idle_only` is false: some clients give up every stream when they are told.

    Source: RFC 9113, 6.8.
    """
    protocol = server.http2
    if protocol is None or (idle_only and not protocol.idle) or server.writer.is_closing():
        return
    idle = protocol.idle
    # Not through h2, which would refuse to send anything afterwards, answers included.
    goaway = GoAwayFrame(stream_id=0, last_stream_id=protocol.connection.highest_inbound_stream_id)
    with contextlib.suppress(ConnectionError):
        await protocol.send(RawData(data=goaway.serialize()))
    if idle:
        server.writer.close()

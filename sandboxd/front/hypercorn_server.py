"""Hypercorn's connections behind a listener of our own, so that the end of the server can come in steps.

Hypercorn's own `serve` stops listening and drops idle connections in one step: a request that is on its way on a kept
connection is lost. Here connections are read for a while after nothing is accepted any more; they learn from
`connection: close`, or from GOAWAY, that they are to be opened anew, which then reaches the successor.

Imported only where Hypercorn runs.
"""

import asyncio
import contextlib
import socket
import ssl
from functools import partial
from typing import Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.utils import wrap_app
from hyperframe.frame import GoAwayFrame

from sandboxd.front import hypercorn_http2, hypercorn_inbox
from sandboxd.front.lameduck import lame_duck
from sandboxd.front.ports import Asgi, Message, Receive, Scope, Send


async def serve(
    app: Asgi, listener: socket.socket, settings: Config, stop: asyncio.Event, lame_duck_s: float, drain_s: float
) -> None:
    """Serve until `stop` is set, then end in steps.

    Parameters:
        app: the application.
        listener: bound and listening; closed at once when `stop` is set.
        settings: Hypercorn's.
        stop: ends accepting.
        lame_duck_s: how long idle connections are read afterwards. Seconds.
        drain_s: how long requests may take after that. Seconds.
    """
    hypercorn_http2.install()
    hypercorn_inbox.install()
    connections: dict[asyncio.Task[Any], _Connection] = {}
    context = WorkerContext(None)
    framework: Any = _closing(app, stop)  # the same protocol, typed by Hypercorn message by message
    wrapped = wrap_app(framework, settings.wsgi_max_body_size, "asgi")
    loop = asyncio.get_running_loop()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections[task] = server = _Connection(wrapped, loop, settings, context, {}, reader, writer)
        try:
            await server
        finally:
            del connections[task]

    async def goodbyes(*, idle_only: bool) -> None:
        for server in list(connections.values()):
            await _say_goodbye(server, idle_only=idle_only)

    tls: ssl.SSLContext | None = settings.create_ssl_context() if settings.ssl_enabled else None
    listening = await asyncio.start_server(
        accepted,
        sock=listener,
        backlog=settings.backlog,
        ssl=tls,
        ssl_handshake_timeout=settings.ssl_handshake_timeout if tls is not None else None,
    )
    try:
        await stop.wait()
        listening.close()
        await lame_duck(lambda: bool(connections), lame_duck_s, partial(goodbyes, idle_only=True))
        await goodbyes(idle_only=False)
        await context.terminated.set()
        if connections:
            await asyncio.wait(set(connections), timeout=drain_s)
    finally:
        listening.close()
        left = set(connections)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)


class _Connection(TCPServer):
    """Hypercorn's, but let go of when the peer has closed it: Hypercorn keeps its descriptor for the idle timeout."""

    _ended = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._ended = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """See Hypercorn. Ending streams would set the idle timeout going again."""
        if not (self._ended and isinstance(event, Updated)):
            await super().protocol_send(event)


def _closing(app: Asgi, stop: asyncio.Event) -> Asgi:
    """The application, whose HTTP/1 answers end their connection once `stop` is set."""

    async def closing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["http_version"] == "2":
            await app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and stop.is_set():
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await app(scope, receive, sending)

    return closing


async def _say_goodbye(server: TCPServer, *, idle_only: bool) -> None:
    """GOAWAY for an HTTP/2 connection: streams up to the last one seen are answered, later ones were never begun.

    An idle connection is closed with it. One that is busy is left for its streams to end, and only told if
    `idle_only` is false: some clients give up every stream when they are told.

    Source: RFC 9113, 6.8.
    """
    protocol = getattr(getattr(server, "protocol", None), "protocol", None)
    if not isinstance(protocol, H2Protocol) or (idle_only and not protocol.idle) or server.writer.is_closing():
        return
    idle = protocol.idle
    # Not through h2, which would refuse to send anything afterwards, answers included.
    goaway = GoAwayFrame(stream_id=0, last_stream_id=protocol.connection.highest_inbound_stream_id)
    with contextlib.suppress(ConnectionError):
        await protocol.send(RawData(data=goaway.serialize()))
    if idle:
        server.writer.close()

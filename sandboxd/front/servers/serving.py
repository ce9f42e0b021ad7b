"""The HTTP servers that can carry the application: Hypercorn and uvicorn.

Hypercorn is always there and speaks HTTP/2 and TLS; uvicorn with httptools and uvloop (the `fast` extra) is three to
four times faster at HTTP/1.1. Neither installs signal handlers or configures logging here; both serve a socket that
the caller has bound.
"""

import asyncio
import contextlib
import importlib.util
import logging
import math
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sandboxd.errors import ConfigError
from sandboxd.front.http.direct import DirectEndpoint
from sandboxd.front.ports import Asgi
from sandboxd.front.servers.connections import SWEEP_S, CallerLimits, Connections
from sandboxd.front.servers.idle_close import STOP_MARGIN_S, Ending, wait_for_answers, wait_until_closed
from sandboxd.front.servers.refusals import Refusals

log = logging.getLogger("sandboxd.engine")

IDLE_CLOSE_S: Final = 2.0
"""Kept connections are read this long after the server stopped accepting. Every answer in that time closes its
connection, so a client learns of the end from an answer and not from a request that is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpServerSettings:
    """The settings of an HTTP server."""

    kind: str = "auto"
    """auto, hypercorn or uvicorn."""
    http2: bool = True
    """Hypercorn only: HTTP/2 by ALPN where there is TLS. Without TLS, clients that know may use h2c."""
    tls_certificate: str | None = None
    tls_key: str | None = None
    max_header_bytes: int = 16 * 1024
    """Longest request line and headers together."""
    callers: CallerLimits = field(default_factory=CallerLimits)
    """The limits of the connections from callers."""


def choose(config: HttpServerSettings) -> str:
    """Return the name of the HTTP server that will run: hypercorn or uvicorn.

    Raises:
        ConfigError: uvicorn is asked for but is not installed, or cannot do what is asked for.
    """
    installed = all(importlib.util.find_spec(name) is not None for name in ("uvicorn", "httptools"))
    tls = config.tls_certificate is not None
    if config.kind == "auto":
        return "uvicorn" if installed and not tls else "hypercorn"
    if config.kind == "uvicorn":
        if not installed:
            raise ConfigError("uvicorn is not installed", remedy="install sandboxd[fast], or set engine.kind to auto")
        if tls:
            raise ConfigError("uvicorn serves no TLS here", remedy="set engine.kind to hypercorn")
    return config.kind


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's loop for asyncio.Runner if it is installed; None means the standard one."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(
    app: Asgi,
    listener: socket.socket,
    config: HttpServerSettings,
    stop: asyncio.Event,
    *,
    drain_s: float = 30.0,
    answered: asyncio.Event | None = None,
    refusals: Refusals | None = None,
    direct: DirectEndpoint | None = None,
) -> None:
    """Serve until `stop` is set, then finish what has begun.

    Parameters:
        app: the application.
        listener: bound and listening; the HTTP server owns and closes it.
        stop: setting it stops accepting connections and lets requests finish.
        drain_s: seconds that they may take. Requests that are left then are cancelled.
        answered: set by a caller that answers those that are left itself. Connections are cut after that, and not
            after `drain_s`: a process that stood still meanwhile still answers first.
        refusals: is told of callers that the HTTP server turns away by itself.
        direct: answers plain binding requests in place of the application, where the HTTP server can do without ASGI
            (uvicorn); None if the application answers all.

    Raises:
        ConfigError: see `choose`.
        Exception: the HTTP server failed.
    """
    refusals = refusals or Refusals()
    connections = Connections(config.callers, refusals)
    ending = Ending(stop, min(IDLE_CLOSE_S, drain_s), asyncio.Event() if answered is None else answered)
    if choose(config) == "uvicorn":
        running = _uvicorn(app, listener, config, ending, connections, refusals, direct)
    else:
        running = _hypercorn(app, listener, config, ending, connections, refusals)
    server = asyncio.create_task(running, name="http-server")
    sweeping = asyncio.create_task(_sweep(connections), name="http-server-sweep")
    stopping = asyncio.create_task(_stopped(ending, drain_s if answered is None else None), name="http-server-stop")
    try:
        await asyncio.wait({server, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not server.done():
            # Both HTTP servers end the drain by themselves. This is for a server that does not.
            await asyncio.wait({server}, timeout=3 * STOP_MARGIN_S)
        if not server.done():
            log.warning("connections are cut: they did not end in time")
            server.cancel()
            await asyncio.wait({server}, timeout=STOP_MARGIN_S)
    finally:
        stopping.cancel()
        sweeping.cancel()
        if not server.done():
            server.cancel()
        listener.close()
        refusals.report()
    if server.done() and not server.cancelled():
        server.result()


async def _stopped(ending: Ending, drain_s: float | None) -> None:
    """Wait until connections may be cut. With `drain_s`, that is so long after the end of accepting."""
    await ending.stop.wait()
    if drain_s is not None:
        await asyncio.sleep(drain_s)
        ending.answered.set()
    await ending.answered.wait()


async def _sweep(connections: Connections) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        connections.sweep()


async def _hypercorn(
    app: Asgi,
    listener: socket.socket,
    config: HttpServerSettings,
    ending: Ending,
    connections: Connections,
    refusals: Refusals,
) -> None:
    from hypercorn.config import Config

    from sandboxd.front.servers.hypercorn_server import serve as hypercorn_serve

    settings = Config()
    settings.accesslog = None
    settings.errorlog = logging.getLogger("hypercorn.error")
    settings.loglevel = "WARNING"
    settings.include_server_header = False
    settings.keep_alive_timeout = config.callers.head_timeout_s
    settings.keep_alive_max_requests = 2**31
    settings.h11_max_incomplete_size = config.max_header_bytes
    settings.h2_max_header_list_size = config.max_header_bytes
    if config.tls_certificate is not None:
        settings.certfile = config.tls_certificate
        settings.keyfile = config.tls_key
        settings.alpn_protocols = ["h2", "http/1.1"] if config.http2 else ["http/1.1"]
    settings.ssl_handshake_timeout = config.callers.head_timeout_s
    await hypercorn_serve(app, listener, settings, ending, connections, refusals)


async def _uvicorn(
    app: Asgi,
    listener: socket.socket,
    config: HttpServerSettings,
    ending: Ending,
    connections: Connections,
    refusals: Refusals,
    direct: DirectEndpoint | None,
) -> None:
    import uvicorn

    from sandboxd.front.servers.uvicorn_protocol import bounded_protocol, close_after_answer

    class Server(uvicorn.Server):
        """Leaves signals to the caller."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    protocol = bounded_protocol(config.max_header_bytes, connections, refusals, direct)
    settings = uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="off",
        ws="none",
        http=protocol,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=math.ceil(STOP_MARGIN_S),
    )
    server = Server(settings)

    async def supervise() -> None:
        await ending.stop.wait()
        for listening in server.servers:
            listening.close()
        open_now = server.server_state.connections
        close_after_answer(protocol, open_now)
        await wait_until_closed(lambda: bool(open_now), ending.idle_close_s)
        for connection in list(open_now):
            connection.shutdown()  # closes those that are idle
        await wait_for_answers(ending.answered, lambda: bool(open_now))
        # uvicorn would wait on for those who do not read, and log an error about requests that are long complete.
        # The requests of others are cancelled: some are no tasks, which is all that uvicorn cancels.
        for left in connections.all():
            left.abort()
        server.should_exit = True

    supervisor = asyncio.create_task(supervise(), name="http-server-supervisor")
    try:
        await server.serve(sockets=[listener])
    finally:
        supervisor.cancel()


def listen(host: str, port: int, *, backlog: int | None = 2048) -> socket.socket:
    """Return a socket to serve on.

    Parameters:
        host: an address or a name; the first address it resolves to is taken.
        port: 0 takes a free one.
        backlog: connections that may wait; None only binds it.

    Raises:
        OSError: the address is taken or cannot be used.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        address_any: Any = address
        listener.bind(address_any)
        if backlog is not None:
            listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener

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
from dataclasses import dataclass
from typing import Any, Final

from sandboxd.errors import ConfigError
from sandboxd.front.ports import Asgi

log = logging.getLogger("sandboxd.engine")

STOP_MARGIN_S: Final = 1.0
"""After the drain time, this is left for answers on their way out; then connections are cut."""
LAME_DUCK_S: Final = 2.0
"""Kept connections are read this long after the server stopped accepting. Every answer in that time closes its
connection, so a client learns of the end from an answer and not from a request that is lost."""
_HEAD_SWEEP_S: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How to serve."""

    kind: str = "auto"
    """auto, hypercorn or uvicorn."""
    http2: bool = True
    """Hypercorn only: HTTP/2 by ALPN where there is TLS. Without TLS, clients that know may use h2c."""
    tls_certificate: str | None = None
    tls_key: str | None = None
    max_header_bytes: int = 16 * 1024
    """Longest request line and headers together."""
    header_timeout_s: float = 10.0
    """Longest time for a request head to arrive."""


def choose(config: EngineConfig) -> str:
    """The engine that will run: hypercorn or uvicorn.

    Raises:
        ConfigError: uvicorn is asked for but is not installed, or cannot do what is asked for.
    """
    installed = all(importlib.util.find_spec(name) is not None for name in ("uvicorn", "httptools"))
    tls = config.tls_certificate is not None
    if config.kind == "auto":
        return "uvicorn" if installed and not tls else "hypercorn"
    if config.kind == "uvicorn":
        if not installed:
            raise ConfigError("engine uvicorn is not installed", remedy="install sandboxd[fast], or set engine to auto")
        if tls:
            raise ConfigError("engine uvicorn serves no TLS here", remedy="set engine to hypercorn")
    return config.kind


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop where it is installed; None for the standard one. For asyncio.Runner."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def serve(
    app: Asgi, listener: socket.socket, config: EngineConfig, stop: asyncio.Event, *, drain_s: float = 30.0
) -> None:
    """Serve until `stop` is set, then finish what has begun.

    Parameters:
        app: the application.
        listener: bound and listening; the engine owns and closes it.
        stop: set it to stop accepting and to let requests finish.
        drain_s: how long they may take; what is left then is cancelled. Seconds.

    Raises:
        ConfigError: see `choose`.
        Exception: the engine failed.
    """
    run = {"hypercorn": _hypercorn, "uvicorn": _uvicorn}[choose(config)]
    engine = asyncio.create_task(run(app, listener, config, stop, drain_s), name="engine")
    stopping = asyncio.create_task(stop.wait(), name="engine-stop")
    try:
        await asyncio.wait({engine, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not engine.done():
            # The engines bound the drain themselves; this is for one that does not.
            await asyncio.wait({engine}, timeout=drain_s + 2 * STOP_MARGIN_S)
        if not engine.done():
            log.warning("connections are cut: they did not end in time")
            engine.cancel()
            await asyncio.wait({engine}, timeout=STOP_MARGIN_S)
    finally:
        stopping.cancel()
        if not engine.done():
            engine.cancel()
        listener.close()
    if engine.done() and not engine.cancelled():
        engine.result()


async def _hypercorn(
    app: Asgi, listener: socket.socket, config: EngineConfig, stop: asyncio.Event, drain_s: float
) -> None:
    from hypercorn.config import Config

    from sandboxd.front.hypercorn_server import serve as hypercorn_serve

    settings = Config()
    settings.accesslog = None
    settings.errorlog = logging.getLogger("hypercorn.error")
    settings.loglevel = "WARNING"
    settings.include_server_header = False
    settings.keep_alive_timeout = config.header_timeout_s
    settings.keep_alive_max_requests = 2**31
    settings.h11_max_incomplete_size = config.max_header_bytes
    settings.h2_max_header_list_size = config.max_header_bytes
    if config.tls_certificate is not None:
        settings.certfile = config.tls_certificate
        settings.keyfile = config.tls_key
        settings.alpn_protocols = ["h2", "http/1.1"] if config.http2 else ["http/1.1"]
    lame_duck_s = min(LAME_DUCK_S, drain_s)
    await hypercorn_serve(app, listener, settings, stop, lame_duck_s, drain_s - lame_duck_s + STOP_MARGIN_S)


async def _uvicorn(
    app: Asgi, listener: socket.socket, config: EngineConfig, stop: asyncio.Event, drain_s: float
) -> None:
    import uvicorn

    from sandboxd.front.lameduck import lame_duck
    from sandboxd.front.uvicorn_protocol import bounded_protocol, close_after_answer, close_overdue

    class Server(uvicorn.Server):
        """Leaves signals to the caller."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    lame_duck_s = min(LAME_DUCK_S, drain_s)
    protocol = bounded_protocol(config.max_header_bytes)
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
        timeout_graceful_shutdown=math.ceil(drain_s - lame_duck_s + STOP_MARGIN_S),
    )
    server = Server(settings)

    async def supervise() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _HEAD_SWEEP_S)
            close_overdue(server.server_state.connections, config.header_timeout_s)
        for listening in server.servers:
            listening.close()
        close_after_answer(protocol, server.server_state.connections)
        await lame_duck(lambda: bool(server.server_state.connections), lame_duck_s)
        server.should_exit = True

    supervisor = asyncio.create_task(supervise(), name="engine-supervisor")
    try:
        await server.serve(sockets=[listener])
    finally:
        supervisor.cancel()


def listen(host: str, port: int, *, backlog: int = 2048, reuse_port: bool = False) -> socket.socket:
    """A socket to serve on.

    Parameters:
        host: an address or a name; the first address it resolves to is taken.
        port: 0 takes a free one.
        reuse_port: several processes listen on the same port.

    Raises:
        OSError: it cannot be had.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        address_any: Any = address
        listener.bind(address_any)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener

"""The yardstick: a no-op Starlette endpoint on the engine as it comes, with the loop and HTTP parser sandboxd uses.

It answers a constant through Starlette's router and JSONResponse and does not read the request's body (except over
HTTP/2, where Hypercorn ends connections on which bodies are left unread). uvicorn runs with its own protocol class,
without sandboxd's changes to it.

    python -m bench.noop --fd N [--engine uvicorn|hypercorn]
"""

import argparse
import asyncio
import gc
import signal
import socket
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sandboxd.front.servers.serving import HttpServerSettings, loop_factory, serve


async def noop(request: Request) -> JSONResponse:
    """The same answer to everyone."""
    if request.scope["http_version"] == "2":
        await request.body()
    return JSONResponse({"ok": True})


async def run_hypercorn(app: Starlette, listener: socket.socket) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(app, listener, HttpServerSettings(kind="hypercorn"), stop, drain_s=1.0)


async def run_uvicorn(app: Starlette, listener: socket.socket) -> None:
    """Serve until SIGTERM."""
    import uvicorn

    config = uvicorn.Config(app, http="httptools", lifespan="off", ws="none", access_log=False, log_config=None)
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--engine", default="uvicorn", choices=["uvicorn", "hypercorn"])
    given = parser.parse_args()
    listener = socket.socket(fileno=given.fd)
    listener.setblocking(False)
    app = Starlette(routes=[Route("/v1.0/bindings/{name}", noop, methods=["POST"])])
    run = run_uvicorn if given.engine == "uvicorn" else run_hypercorn
    gc.collect()
    gc.freeze()
    print("ready", file=sys.stderr, flush=True)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(app, listener))


if __name__ == "__main__":
    main()

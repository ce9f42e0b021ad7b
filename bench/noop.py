"""The yardstick: a no-op Starlette endpoint on the same engine, loop and HTTP parser as sandboxd.

It answers a constant through Starlette's router and JSONResponse and does not even read the request's body.

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

from sandboxd.front.engines import EngineConfig, loop_factory, serve


async def noop(_request: Request) -> JSONResponse:
    """The same answer to everyone."""
    return JSONResponse({"ok": True})


async def run(fd: int, engine: str) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    app = Starlette(routes=[Route("/v1.0/bindings/{name}", noop, methods=["POST"])])
    gc.collect()
    gc.freeze()
    print('{"event": "ready"}', file=sys.stderr, flush=True)
    await serve(app, listener, EngineConfig(kind=engine), stop, drain_s=1.0)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--engine", default="uvicorn", choices=["uvicorn", "hypercorn"])
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(given.fd, given.engine))


if __name__ == "__main__":
    main()

"""The clients that `bench/outbound.py` compares, each in a process of its own, and the origin that they call.

`python bench/outbound_clients.py NAME PORT PACKAGES` is such a process. PACKAGES is the checkout with its packages.
"""

import asyncio
import functools
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpcore2
import httpx2 as httpx

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, sys.argv[3])

from hostfuncs.outbound import Outbound, OutboundLimits, Policy, Request  # noqa: E402 - of the checkout that is wanted

ORIGIN = r"""
import asyncio, sys
BODY = b"x" * 128
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 128\r\n\r\n" + BODY
class Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.held = transport, b""
    def data_received(self, data):
        self.held += data
        while (at := self.held.find(b"\r\n\r\n")) >= 0:
            slow = self.held.startswith(b"GET /slow")
            self.held = self.held[at + 4:]
            if slow:
                asyncio.get_running_loop().call_later(0.05, self.transport.write, REPLY)
            else:
                self.transport.write(REPLY)
async def main():
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().connect_read_pipe(Ended, sys.stdin)
    await server.serve_forever()
class Ended(asyncio.Protocol):
    def connection_lost(self, exc):
        asyncio.get_running_loop().stop()
try:
    asyncio.run(main())
except RuntimeError:
    pass
"""


class OutboundClient:
    """hostfuncs.outbound, with one invocation per round, as for a guest that makes many requests."""

    def __init__(self, port: int, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self.outbound = Outbound(new_loop=new_loop)
        self.policy = Policy.parse(["http://127.0.0.1:*"])
        self.request = Request(method="GET", scheme="http", authority=f"127.0.0.1:{port}")

    def run(self, count: int, flight: int) -> None:
        """Send `count` requests, `flight` at a time."""
        limits = OutboundLimits(requests=count)
        exchanges = self.outbound.begin(self.policy, limits, time.monotonic_ns() + 60 * 10**9)
        left = count
        while left:
            started = [exchanges.start(self.request) for _ in range(min(flight, left))]
            for exchange in started:
                exchanges.wait(exchange.body.complete)
                assert len(exchange.body.read(65536)) == 128
            left -= len(started)
        exchanges.close()

    def close(self) -> None:
        """Close the connections."""
        self.outbound.close()


class AsyncioClient:
    """An asyncio client, which sends in the same bursts."""

    def __init__(self, make: Callable[[int], Awaitable[tuple[Callable[[], Awaitable[int]], Any]]], port: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.once, self.closing = self.loop.run_until_complete(make(port))

    def run(self, count: int, flight: int) -> None:
        """Send `count` requests, `flight` at a time."""

        async def burst(size: int) -> None:
            if size == 1:
                assert await self.once() == 128
            else:
                assert await asyncio.gather(*(self.once() for _ in range(size))) == [128] * size

        left = count
        while left:
            size = min(flight, left)
            self.loop.run_until_complete(burst(size))
            left -= size

    def close(self) -> None:
        """Close the client."""
        self.loop.run_until_complete(self.closing())
        self.loop.close()


TIMEOUT = {"timeout": {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}}


async def httpcore_pool(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """Make a client of httpcore2's pool."""
    pool = httpcore2.AsyncConnectionPool(max_connections=64, keepalive_expiry=30)
    url = httpcore2.URL(scheme=b"http", host=b"127.0.0.1", port=port, target=b"/")
    headers = [(b"Host", b"127.0.0.1:%d" % port)]

    async def once() -> int:
        response = await pool.handle_async_request(httpcore2.Request(b"GET", url, headers=headers, extensions=TIMEOUT))
        try:
            return sum([len(part) async for part in response.stream])  # type: ignore[union-attr]
        finally:
            await response.aclose()

    return once, pool.aclose


def through(transport: httpx.AsyncBaseTransport, port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """Make a client of an httpx2 transport."""
    url = httpx.URL(f"http://127.0.0.1:{port}/")

    async def once() -> int:
        response = await transport.handle_async_request(httpx.Request("GET", url, extensions=TIMEOUT))
        try:
            return sum([len(part) async for part in response.stream])  # type: ignore[union-attr]
        finally:
            await response.aclose()

    return once, transport.aclose


async def httpx_transport(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """Make a client of httpx2's own transport."""
    return through(httpx.AsyncHTTPTransport(trust_env=False, limits=httpx.Limits(max_connections=64)), port)


async def httpx_aiohttp(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """Make a client of aiohttp under httpx2's transport interface."""
    from httpx_aiohttp.httpx2 import AiohttpTransport

    return through(AiohttpTransport(), port)


async def httpx_client(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """Make an httpx2 client as people use it."""
    client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=64))
    url = f"http://127.0.0.1:{port}/"

    async def once() -> int:
        return len((await client.get(url)).content)

    return once, client.aclose


async def aiohttp_client(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """Make an aiohttp client as people use it."""
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
    url = f"http://127.0.0.1:{port}/"

    async def once() -> int:
        async with session.get(url) as response:
            return len(await response.read())

    return once, session.close


def _on_uvloop(port: int) -> OutboundClient:
    import uvloop

    return OutboundClient(port, uvloop.new_event_loop)


CLIENTS: dict[str, Callable[[int], OutboundClient | AsyncioClient]] = {
    "outbound": OutboundClient,
    "outbound on uvloop": _on_uvloop,
    "httpcore2": functools.partial(AsyncioClient, httpcore_pool),
    "httpx2 transport": functools.partial(AsyncioClient, httpx_transport),
    "httpx-aiohttp": functools.partial(AsyncioClient, httpx_aiohttp),
    "httpx2 client": functools.partial(AsyncioClient, httpx_client),
    "aiohttp client": functools.partial(AsyncioClient, aiohttp_client),
}


def serve_rounds(name: str, port: int) -> int:
    """Run a client's process: answer each line `COUNT FLIGHT` with the seconds and CPU seconds of that round."""
    try:
        client = CLIENTS[name](port)
    except ModuleNotFoundError as missing:
        print(missing.name, flush=True)
        return 1
    print("ready", flush=True)
    for line in sys.stdin:
        count, flight = map(int, line.split())
        wall, cpu = time.perf_counter(), time.process_time()
        client.run(count, flight)
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
    client.close()
    return 0


class ClientProcess:
    """A client in a process of its own.

    Parameters:
        name: a key of CLIENTS.
        port: the origin's port.
        checkout: the checkout whose packages it uses.

    Raises:
        ModuleNotFoundError: the client is not installed.
    """

    def __init__(self, name: str, port: int, checkout: Path = ROOT) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), name, str(port), str(checkout)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        first = self._read_line()
        if first != "ready":
            self.close()
            raise ModuleNotFoundError(name=first)

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, count: int, flight: int) -> tuple[float, float]:
        """Send `count` requests, `flight` at a time. Return the seconds and CPU seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {flight}\n")
        self._process.stdin.flush()
        wall, cpu = map(float, self._read_line().split())
        return wall, cpu

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=20)


if __name__ == "__main__":
    sys.exit(serve_rounds(sys.argv[1], int(sys.argv[2])))

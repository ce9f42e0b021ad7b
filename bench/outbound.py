"""What an outbound request costs, by transport, at 1 and 16 in flight; and what a fan-out of slow requests takes.

The origin is a process of its own on loopback that answers 128 bytes from a canned buffer, so that what is measured is
the client. All clients run in this process, their rounds alternate, and the table has the median of the rounds' means:
wall time and this process's CPU time per request.

    python bench/outbound.py [--rounds 5] [--requests 400] [--json FILE]

Clients:

    engine              hostfuncs.outbound: policy, limits, timeouts and usage records included
    httpcore2           its pool with its own connections, no policy (what httpx2's transport calls)
    httpx2 transport    httpx2.AsyncHTTPTransport, no client
    httpx-aiohttp       httpx-aiohttp's transport under the same calls
    httpx2 client       httpx2.AsyncClient
    aiohttp client      aiohttp.ClientSession

httpx-aiohttp and aiohttp are measured where they are installed (pip install httpx-aiohttp).
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpcore2
import httpx2 as httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hostfuncs.outbound import Outbound, OutboundLimits, Policy, Request

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


class Engine:
    """Our own. One invocation per round, as a guest that makes many requests."""

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


class Client:
    """Any asyncio client, driven in the same bursts."""

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


async def straight_httpcore(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """httpcore2's pool."""
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
    """An httpx2 transport without a client."""
    url = httpx.URL(f"http://127.0.0.1:{port}/")

    async def once() -> int:
        response = await transport.handle_async_request(httpx.Request("GET", url, extensions=TIMEOUT))
        try:
            return sum([len(part) async for part in response.stream])  # type: ignore[union-attr]
        finally:
            await response.aclose()

    return once, transport.aclose


async def httpx_transport(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """httpx2's own transport."""
    return through(httpx.AsyncHTTPTransport(trust_env=False, limits=httpx.Limits(max_connections=64)), port)


async def httpx_aiohttp(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """aiohttp under httpx2's transport interface."""
    from httpx_aiohttp.httpx2 import AiohttpTransport

    return through(AiohttpTransport(), port)


async def httpx_client(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """httpx2 as people use it."""
    client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=64))
    url = f"http://127.0.0.1:{port}/"

    async def once() -> int:
        return len((await client.get(url)).content)

    return once, client.aclose


async def aiohttp_client(port: int) -> tuple[Callable[[], Awaitable[int]], Any]:
    """aiohttp as people use it."""
    import aiohttp

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))
    url = f"http://127.0.0.1:{port}/"

    async def once() -> int:
        async with session.get(url) as response:
            return len(await response.read())

    return once, session.close


def clients(port: int) -> dict[str, Any]:
    """Every client that is installed."""
    found: dict[str, Any] = {"engine": Engine(port)}
    try:
        import uvloop

        found["engine on uvloop"] = Engine(port, uvloop.new_event_loop)
    except ModuleNotFoundError:
        pass
    for name, make in (
        ("httpcore2", straight_httpcore),
        ("httpx2 transport", httpx_transport),
        ("httpx-aiohttp", httpx_aiohttp),
        ("httpx2 client", httpx_client),
        ("aiohttp client", aiohttp_client),
    ):
        try:
            found[name] = Client(make, port)
        except ModuleNotFoundError as missing:
            print(f"left out: {name} ({missing.name} is not installed)", file=sys.stderr)
    return found


def measure(found: dict[str, Any], rounds: int, requests: int) -> list[dict[str, Any]]:
    """The table: one row per client and number in flight."""
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for round_number in range(rounds + 1):
        for flight in (1, 16):
            for name, client in found.items():
                wall, cpu = time.perf_counter(), time.process_time()
                client.run(requests, flight)
                spent = (time.perf_counter() - wall, time.process_time() - cpu)
                if round_number:  # the first round connects and warms up
                    samples.setdefault((name, flight), []).append(spent)
    return [
        {
            "client": name,
            "in_flight": flight,
            "wall_us": round(statistics.median(wall for wall, _ in values) / requests * 1e6, 1),
            "cpu_us": round(statistics.median(cpu for _, cpu in values) / requests * 1e6, 1),
        }
        for (name, flight), values in samples.items()
    ]


def fan_out(port: int, rounds: int) -> dict[str, float]:
    """Milliseconds for 8 requests to an origin that answers after 50 ms: engine alone, and from guests of both ABIs."""
    outbound = Outbound()
    policy = Policy.parse(["http://127.0.0.1:*"])
    slow = Request(method="GET", scheme="http", authority=f"127.0.0.1:{port}", path_with_query="/slow")
    engine_ms = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        exchanges = outbound.begin(policy, OutboundLimits(), time.monotonic_ns() + 60 * 10**9)
        started = [exchanges.start(slow) for _ in range(8)]
        for exchange in started:
            exchanges.wait(exchange.body.complete)
        exchanges.close()
        engine_ms.append((time.perf_counter() - began) * 1000)
    outbound.close()
    legacy_ms = legacy_guest(port, rounds)
    component_ms = component_guest(port, rounds)
    # The first run connects.
    return {
        "engine_ms": round(statistics.median(engine_ms[1:]), 1),
        "legacy_guest_ms": round(statistics.median(legacy_ms[1:]), 1),
        "component_guest_ms": round(statistics.median(component_ms[1:]), 1) if component_ms else None,
    }


def legacy_guest(port: int, rounds: int) -> list[float]:
    """Milliseconds per run of a C guest that imports Dapr's wasi-http."""
    from tests.host.legacy_guests import c_client
    from tests.host.legacy_runner import Runner

    runner = Runner(c_client())
    spent = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        ran = runner.run("-n", "8", f"http://127.0.0.1:{port}/slow")
        spent.append((time.perf_counter() - began) * 1000)
        assert ran.stdout.endswith(b"total 1024\n"), ran
    runner.outbound.close()
    return spent


def component_guest(port: int, rounds: int) -> list[float]:
    """Milliseconds per run of a componentize-py guest (WASI 0.2). Empty where it cannot be built."""
    from tests.guests.component.build import python_component
    from tests.host.components import Components

    spent = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            artifact = python_component("client", "client")
        except Exception as missing:
            print(f"left out: the component ({missing})", file=sys.stderr)
            return []
        with Components(Path(folder)).load(artifact, allowed_outbound_hosts=("http://127.0.0.1:*",)) as guest:
            for _ in range(rounds + 1):
                began = time.perf_counter()
                result = guest.run("fanout", f"http://127.0.0.1:{port}/slow", "8")
                spent.append((time.perf_counter() - began) * 1000)
                assert result.outcome == "completed", result
    return spent


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400, help="per round, client and number in flight")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    origin = subprocess.Popen([sys.executable, "-c", ORIGIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert origin.stdout is not None
    assert origin.stdin is not None
    try:
        port = int(origin.stdout.readline())
        found = clients(port)
        rows = measure(found, options.rounds, options.requests)
        for client in found.values():
            client.close()
        fan = fan_out(port, options.rounds)
    finally:
        origin.stdin.close()
        origin.wait(10)
        origin.stdout.close()
    print("| client | in flight | wall us/request | CPU us/request |")
    print("|---|---|---|---|")
    for row in sorted(rows, key=lambda r: (r["in_flight"], r["wall_us"])):
        print(f"| {row['client']} | {row['in_flight']} | {row['wall_us']} | {row['cpu_us']} |")
    print()
    print(f"8 requests to an origin that answers after 50 ms: {fan}")
    if options.json:
        packages = ("httpx2", "httpcore2", "aiohttp", "httpx-aiohttp", "h11")
        record = {
            "rows": rows,
            "fan_out": fan,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "packages": {name: importlib.metadata.version(name) for name in packages if _installed(name)},
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

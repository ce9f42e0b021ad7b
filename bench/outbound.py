"""The cost of an outbound request, by transport, at 1 and 16 in flight; and the time of a fan-out of slow requests.

The origin is a process of its own on loopback that answers 128 bytes from a canned buffer, so that what is measured is
the client. Every client runs in a process of its own, their rounds alternate, and the table has the median of the
rounds' means: wall time and the client's CPU time per request.

    python bench/outbound.py [--rounds 5] [--requests 400] [--json FILE] [--before FOLDER]

With `--before`, a checkout of another commit, its outbound client runs beside this one, and so does its whole server
with a core guest that makes one request (`git worktree add FOLDER COMMIT` makes a checkout).

Clients:

    outbound            hostfuncs.outbound: policy, limits, timeouts and usage records included
    outbound before     the same of the other checkout
    httpcore2           its pool with its own connections, no policy (what httpx2's transport calls)
    httpx2 transport    httpx2.AsyncHTTPTransport, no client
    httpx-aiohttp       httpx-aiohttp's transport under the same calls
    httpx2 client       httpx2.AsyncClient
    aiohttp client      aiohttp.ClientSession

httpx-aiohttp and aiohttp are measured where they are installed (pip install httpx-aiohttp).
"""

import argparse
import asyncio
import contextlib
import functools
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, sys.argv[sys.argv.index("--packages") + 1] if "--packages" in sys.argv else str(ROOT))

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


class Ours:
    """hostfuncs.outbound. One invocation per round, as a guest that makes many requests."""

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


def _on_uvloop(port: int) -> Ours:
    import uvloop

    return Ours(port, uvloop.new_event_loop)


CLIENTS: dict[str, Callable[[int], Ours | Client]] = {
    "outbound": Ours,
    "outbound on uvloop": _on_uvloop,
    "httpcore2": functools.partial(Client, straight_httpcore),
    "httpx2 transport": functools.partial(Client, httpx_transport),
    "httpx-aiohttp": functools.partial(Client, httpx_aiohttp),
    "httpx2 client": functools.partial(Client, httpx_client),
    "aiohttp client": functools.partial(Client, aiohttp_client),
}


def be_client(name: str, port: int) -> int:
    """Be a client's process: answer each line `COUNT FLIGHT` with the seconds and CPU seconds that it took."""
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
        name: of CLIENTS.
        port: the origin's.
        checkout: whose packages it takes.

    Raises:
        ModuleNotFoundError: the client is not installed.
    """

    def __init__(self, name: str, port: int, checkout: Path = ROOT) -> None:
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--client",
            name,
            str(port),
            "--packages",
            str(checkout),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self._said()
        if said != "ready":
            self.close()
            raise ModuleNotFoundError(name=said)

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, count: int, flight: int) -> tuple[float, float]:
        """Send `count` requests, `flight` at a time; gives back seconds and CPU seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count} {flight}\n")
        self._process.stdin.flush()
        wall, cpu = map(float, self._said().split())
        return wall, cpu

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=20)


def clients(port: int, before: Path | None) -> dict[str, ClientProcess]:
    """Every client that is installed."""
    found: dict[str, ClientProcess] = {}
    if before is not None:
        found["outbound before"] = ClientProcess("outbound", port, before)
    for name in CLIENTS:
        try:
            found[name] = ClientProcess(name, port)
        except ModuleNotFoundError as missing:
            print(f"left out: {name} ({missing.name} is not installed)", file=sys.stderr)
    return found


def measure(found: dict[str, ClientProcess], rounds: int, requests: int) -> list[dict[str, Any]]:
    """The table: one row per client and number in flight."""
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for round_number in range(rounds + 1):
        for flight in (1, 16):
            # Every other round backwards: no client always follows the same one.
            for name, client in list(found.items())[:: 1 if round_number % 2 else -1]:
                spent = client.run(requests, flight)
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
    """Milliseconds for 8 requests to an origin that answers after 50 ms: alone, and from guests of both ABIs."""
    outbound = Outbound()
    policy = Policy.parse(["http://127.0.0.1:*"])
    slow = Request(method="GET", scheme="http", authority=f"127.0.0.1:{port}", path_with_query="/slow")
    outbound_ms = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        exchanges = outbound.begin(policy, OutboundLimits(), time.monotonic_ns() + 60 * 10**9)
        started = [exchanges.start(slow) for _ in range(8)]
        for exchange in started:
            exchanges.wait(exchange.body.complete)
        exchanges.close()
        outbound_ms.append((time.perf_counter() - began) * 1000)
    outbound.close()
    legacy_ms = legacy_guest(port, rounds)
    component_ms = component_guest(port, rounds)
    # The first run connects.
    return {
        "outbound_ms": round(statistics.median(outbound_ms[1:]), 1),
        "legacy_guest_ms": round(statistics.median(legacy_ms[1:]), 1),
        "component_guest_ms": round(statistics.median(component_ms[1:]), 1) if component_ms else None,
    }


def whole_server(port: int, before: Path, rounds: int, seconds: float = 2.0) -> list[dict[str, Any]]:
    """Requests per second of a server whose guest makes one request, of both checkouts, at 1 and 8 connections."""
    from bench import load, measure, targets
    from tests.host.legacy_guests import go_fetch

    guest = {"fetch": go_fetch()}
    body = targets.wrapped("", args=f"http://127.0.0.1:{port}/")
    hosts = {"allowedOutboundHosts": "http://127.0.0.1:*"}
    rows = []
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(
                targets.sandboxd(guest, metadata=hosts, environ={"PYTHONSAFEPATH": "1", "PYTHONPATH": str(checkout)})
            )
            for name, checkout in (("now", ROOT), ("before", before))
        }
        for target in sides.values():
            load.warm(target, body)
        for connections in (1, 8):
            runs = measure.alternate(
                {
                    name: functools.partial(load.closed_loop, target, body, connections=connections, seconds=seconds)
                    for name, target in sides.items()
                },
                rounds,
            )
            now, then = ([run.rps for run in runs[name]] for name in ("now", "before"))
            rows.append(
                {
                    "connections": connections,
                    "now_rps": round(statistics.median(now)),
                    "before_rps": round(statistics.median(then)),
                    "ratio": measure.ratio(now, then),
                    "now_worker_cpu_us": measure.median_of(runs["now"], "worker_cpu_us"),
                    "before_worker_cpu_us": measure.median_of(runs["before"], "worker_cpu_us"),
                    "failed": sum(run.failed for side in runs.values() for run in side),
                }
            )
    return rows


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
    parser.add_argument("--before", type=Path, help="a checkout of another commit, to compare with")
    parser.add_argument("--client", nargs=2, metavar=("NAME", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--packages", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        return be_client(options.client[0], int(options.client[1]))
    origin = subprocess.Popen([sys.executable, "-c", ORIGIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert origin.stdout is not None
    assert origin.stdin is not None
    try:
        port = int(origin.stdout.readline())
        found = clients(port, options.before)
        rows = measure(found, options.rounds, options.requests)
        for client in found.values():
            client.close()
        fan = fan_out(port, options.rounds)
        server = whole_server(port, options.before, options.rounds) if options.before else []
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
    for row in server:
        print(f"whole server: {row}")
    if options.json:
        packages = ("httpx2", "httpcore2", "aiohttp", "httpx-aiohttp", "h11")
        record = {
            "rows": rows,
            "fan_out": fan,
            "whole_server": server,
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

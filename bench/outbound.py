"""The cost of an outbound request, by transport, at 1 and 16 in flight; and the time of a fan-out of slow requests.

The origin is a process of its own on loopback. It answers with 128 bytes from a prepared buffer, so that the client
decides the time. Every client runs in a process of its own, their rounds alternate, and the table has the median of the
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.outbound_clients import CLIENTS, ORIGIN, ClientProcess  # noqa: E402 - found by the line above
from hostfuncs.outbound import Outbound, OutboundLimits, Policy, Request  # noqa: E402


def clients(port: int, before: Path | None) -> dict[str, ClientProcess]:
    """Start every client that is installed."""
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
    """Return the table: one row per client and number in flight."""
    samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for round_number in range(rounds + 1):
        for flight in (1, 16):
            # Every other round goes backwards, so that no client always follows the same one.
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
    """Return the milliseconds of 8 requests to an origin that answers after 50 ms: alone, and from guests."""
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
    """Return the rates of both checkouts' servers with a guest that makes one request, at 1 and 8 connections."""
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
    """Return the milliseconds per run of a C guest that imports Dapr's wasi-http."""
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
    """Return the milliseconds per run of a componentize-py guest (WASI 0.2); none if it cannot be built."""
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
    options = parser.parse_args()
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

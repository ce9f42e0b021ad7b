"""What does the wall cost: a worker's start, an invocation, and the first connection of a guest's request?

Everything is measured with `pool.wall` on and off in one run, alternating, so that other load falls on both.
The tenth percentiles are compared: other load only ever adds.

Worker starts and invocations: two zygotes with the same guests; from the Spawn frame to READY, and from the Invoke
frame to the result. First connection: two servers with one guest that makes one request to an origin that closes each
connection, so every request is the first one on its connection. With the wall it comes from the egress broker.

    python -m bench.wall [--quick] [--rounds N] [--json FILE]
"""

import asyncio
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from socket import create_server

import msgspec

from bench.measure import Bar, Record, end, options, quantile
from bench.spawn import Spawner, invoke, load_message
from tests.guests import path as guest
from tests.host.legacy_guests import c_client
from tests.running import RunningServer, component, write_components

START_BAR_MS = 0.3
INVOCATION_BAR_US = 1.0
CONNECTION_BAR_MS = 0.3
WALLS = ("off", "required")
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


async def processes(folder: Path, rounds: int, each: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Start times in milliseconds, and the medians of batches of invocations in microseconds, by wall."""
    guests = {"tiny": guest("tiny"), "sort": guest("sort"), "client": c_client()}
    load = await load_message(folder, guests)
    spawners = {wall: Spawner() for wall in WALLS}
    starts: dict[str, list[float]] = {wall: [] for wall in WALLS}
    runs: dict[str, list[float]] = {wall: [] for wall in WALLS}
    try:
        for wall, spawner in spawners.items():
            confinement = msgspec.structs.replace(load.confinement, wall=wall)
            loaded = await spawner.client.start(msgspec.structs.replace(load, confinement=confinement), 120)
            assert not loaded.failed, loaded
        serial = 0
        workers = {}
        for _ in range(rounds * 4):
            for wall, spawner in spawners.items():
                serial += 1
                if wall in workers:
                    workers[wall].channel.close()
                workers[wall] = await spawner.start(serial)
                starts[wall].append((workers[wall].ready_ns - workers[wall].asked_ns) / 1e6)
        for wall in WALLS:
            for _ in range(200):
                await invoke(workers[wall], 0)
        for number in range(rounds * 4):
            for wall in WALLS if number % 2 else WALLS[::-1]:
                times = []
                for _ in range(each):
                    before = time.monotonic_ns()
                    await invoke(workers[wall], 0)
                    times.append((time.monotonic_ns() - before) / 1e3)
                runs[wall].append(statistics.median(times))
    finally:
        for spawner in spawners.values():
            await spawner.client.close()
    return starts, runs


def connections(folder: Path, rounds: int, each: int) -> dict[str, list[float]]:
    """The medians of batches of requests in milliseconds, by wall."""
    found: dict[str, list[float]] = {wall: [] for wall in WALLS}
    with ExitStack() as stack:
        origin = stack.enter_context(create_server(("127.0.0.1", 0), backlog=128))
        threading.Thread(target=_answer, args=(origin,), daemon=True).start()
        url = f"http://127.0.0.1:{origin.getsockname()[1]}/"
        document = component("client", f"file://{c_client()}", allowedOutboundHosts='["http://127.0.0.0/8:*"]')
        resources = write_components(folder / "resources", [document])
        body = {"operation": "execute", "data": "x", "metadata": {"args": url}}
        clients = {}
        for wall in WALLS:
            server = stack.enter_context(
                RunningServer(resources, "--workers", "1", environ={"SANDBOXD_POOL_WALL": wall})
            )
            clients[wall] = stack.enter_context(server.client())
        for number in range(rounds * 4 + 1):
            for wall in WALLS if number % 2 else WALLS[::-1]:
                times = []
                for _ in range(each):
                    before = time.monotonic_ns()
                    reply = clients[wall].post("/v1.0/bindings/client", json=body)
                    times.append((time.monotonic_ns() - before) / 1e6)
                    assert reply.status_code == 200, reply.text
                if number:  # the first batch warms up
                    found[wall].append(statistics.median(times))
    return found


def _answer(listening) -> None:  # type: ignore[no-untyped-def]
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(REPLY)


def main() -> int:
    """Measure and print."""
    given = options(__doc__)
    record = Record(
        question="wall",
        title="What the wall costs",
        columns=("what", "p10 off", "p10 on", "more", "p90 on", "unit", "samples"),
    )
    rounds, each = (2, 50) if given.quick else (given.rounds * 3, 200)
    with tempfile.TemporaryDirectory() as scratch:
        starts, runs = asyncio.run(processes(Path(scratch), rounds, each))
    with tempfile.TemporaryDirectory() as scratch:
        first = connections(Path(scratch), rounds, each // 2)
    for what, times, unit in (
        ("worker start: Spawn frame to READY", starts, "ms"),
        ("invocation of a tiny guest, frame to frame", runs, "us"),
        ("request over a new connection", first, "ms"),
    ):
        off, on = (quantile(sorted(times[wall]), 0.1) for wall in WALLS)
        row = (
            what,
            round(off, 3),
            round(on, 3),
            round(on - off, 3),
            round(quantile(sorted(times["required"]), 0.9), 3),
        )
        record.add(**dict(zip(record.columns, (*row, unit, len(times["required"])), strict=True)))
    start, run, connection = (row["more"] for row in record.rows)
    record.bars += [
        Bar(what="worker start, more with the wall", want=START_BAR_MS, got=start, unit="ms"),
        Bar(what="invocation, more with the wall", want=INVOCATION_BAR_US, got=run, unit="us"),
        Bar(what="first connection, more with the broker", want=CONNECTION_BAR_MS, got=connection, unit="ms"),
    ]
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())

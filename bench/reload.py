"""Is a request lost while bindings are reloaded, or while one server hands over to the next?

Requests arrive in an open loop and on kept connections at the same time, for a short guest and one that sleeps 20 ms.
Meanwhile the components change every second (another environment for the guest, which it prints, so that the moment of
the change shows in the answers) and the server is told by SIGHUP; later a reload that must fail; then the whole server
is replaced several times: a successor starts on the same listening socket, and once it is ready the former one gets
SIGTERM and drains.

    python -m bench.reload [--seconds 20] [--rate 150] [--workers 4] [--quick] [--json FILE]

Fails (exit status 1) if any request is not answered with 200, or if an old generation answers after a reload was
reported as done.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.answers import Answer, spread, tally
from bench.instance import PATIENCE_S, Served, arguments, binding, finish, logged, must, three
from bench.measure import Bar, Record
from bench.traffic import Traffic, mix, run, shot
from tests.running import component, write_components

EVERY_S = 1.0
KEPT = 4
"""Connections of the closed loops."""
SHOTS = ((3, shot("short", "show")), (1, shot("20 ms", "nap", args="20")))


def documents(version: int) -> list[str]:
    """The components; `show` prints its version."""
    return [binding("show", "env", **{"env.VERSION": str(version)}), binding("nap", "sleep")]


def version_of(answer: Answer) -> int | None:
    """Return the version of the components that answered."""
    for line in answer.body.splitlines():
        if line.startswith(b"VERSION="):
            return int(line[8:])
    return None


class UnderLoad:
    """Traffic that goes on while something is done to the server."""

    def __init__(self, port: int, rate: float) -> None:
        self.opened = Traffic(port)
        self.kept = Traffic(port)
        self._rate = rate
        self._over = False

    async def run(self, doing: "asyncio.Task[Any]", seconds_max: float) -> None:
        """Send until `doing` is done, or for so long."""
        pick = mix(SHOTS)
        loops = asyncio.create_task(self.kept.steady(KEPT, lambda: None if self._over else pick()))
        arrivals = asyncio.create_task(self.opened.offer(self._rate, seconds_max, pick))
        await asyncio.wait({doing, arrivals}, return_when=asyncio.FIRST_COMPLETED)
        self._over = True
        arrivals.cancel()
        await asyncio.wait({arrivals})
        await loops
        await self.opened.settle()
        await self.opened.close()
        doing.result()

    @property
    def answers(self) -> list[Answer]:
        """Of both."""
        return self.opened.answers + self.kept.answers


def reloads(record: Record, given: Any) -> None:
    """SIGHUP under load."""
    settings = {"RELOAD_WATCH": "false"}
    with Served(documents(0), workers=given.workers, settings=settings) as server:
        load = UnderLoad(server.port, given.rate)
        told: dict[int, int] = {}
        done: dict[int, int] = {}

        async def change() -> None:
            for version in range(1, max(2, int(given.seconds / EVERY_S)) + 1):
                await asyncio.sleep(EVERY_S)
                write_components(server.resources, documents(version))
                told[version] = time.monotonic_ns()
                server.process.send_signal(signal.SIGHUP)
                await logged(server, "reloaded", version)
                done[version] = time.monotonic_ns()
            write_components(server.resources, [component("show", "file:///nowhere/guest.wasm")])
            server.process.send_signal(signal.SIGHUP)
            await logged(server, "reload_failed", 1)
            await asyncio.sleep(EVERY_S)

        async def all_of_it() -> None:
            await load.run(asyncio.create_task(change()), given.seconds * 4 + PATIENCE_S)

        run(all_of_it)
        took = [float(line["message"].split()[2]) for line in server.log() if line.get("event") == "reloaded"]
        status = server.stop()
    shows = [(answer, version_of(answer)) for answer in load.answers if answer.kind == "short"]
    stale = sum(
        1
        for answer, version in shows
        for newer, at in done.items()
        if version is not None and version < newer and answer.sent_ns > at
    )
    first_new = [
        (min(a.done_ns for a, v in shows if v == version) - at) / 1e6
        for version, at in told.items()
        if any(v == version for _, v in shows)
    ]
    during = [
        answer.latency_ms
        for answer in load.answers
        if any(answer.done_ns >= told[v] and answer.due_ns <= done[v] for v in done)
    ]
    beside = [
        answer.latency_ms
        for answer in load.answers
        if not any(answer.done_ns >= told[v] and answer.due_ns <= done[v] for v in done)
    ]
    note(record, "SIGHUP", load, len(done))
    record.add(what="reload, as logged (p50 / p99 / max)", value=three(spread(took)))
    record.add(what="SIGHUP to the first answer of the new components", value=three(spread(first_new)))
    record.add(what="latency while a reload was going on", value=three(spread(during)))
    record.add(what="latency otherwise", value=three(spread(beside)))
    record.add(what="answers of former components after `reloaded`", value=stale)
    must(record, "answers of former components after `reloaded`", stale)
    must(record, "reloads: exit status of the server", status)


def rolling(record: Record, given: Any) -> None:
    """Successors on the same socket, under load."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    restarts = 2 if given.quick else max(2, int(given.seconds / 5))
    overlaps: list[float] = []
    drains: list[float] = []
    statuses: list[int] = []
    with tempfile.TemporaryDirectory(prefix="sandboxd-bench-") as name:
        folder = Path(name)

        def start(version: int) -> Served:
            own = folder / str(version)
            os.makedirs(own)
            settings = {"CACHE_FOLDER": str(folder / "cache"), "RELOAD_WATCH": "false"}
            return Served(documents(version), workers=given.workers, settings=settings, listener=listener, folder=own)

        serving = [start(0)]
        load = UnderLoad(serving[0].port, given.rate)

        async def replace() -> None:
            for version in range(1, restarts + 1):
                await asyncio.sleep(EVERY_S)
                began = time.monotonic()
                successor = await asyncio.to_thread(start, version)
                overlaps.append((time.monotonic() - began) * 1000)
                former, serving[0] = serving[0], successor
                began = time.monotonic()
                statuses.append(await asyncio.to_thread(former.stop))
                drains.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(EVERY_S)

        async def all_of_it() -> None:
            await load.run(asyncio.create_task(replace()), restarts * PATIENCE_S)

        try:
            run(all_of_it)
        finally:
            statuses.append(serving[0].stop())
            listener.close()
    note(record, "rolling restart", load, restarts)
    record.add(what="successor, start to ready", value=three(spread(overlaps)))
    record.add(what="former server, SIGTERM to exit", value=three(spread(drains)))
    latencies = [answer.latency_ms for answer in load.answers]
    record.add(what="latency while servers were replaced", value=three(spread(latencies)))
    seen = {version_of(answer) for answer in load.answers if answer.kind == "short"} - {None}
    record.bars.append(
        Bar(what="rolling restart: servers that answered", want=restarts + 1, got=len(seen), at_least=True)
    )
    must(record, "rolling restart: exit statuses other than 0", sum(1 for status in statuses if status))


def note(record: Record, what: str, load: UnderLoad, changes: int) -> None:
    """Rows and the bar about lost requests."""
    answers = load.answers
    causes = tally(answers)
    sent = load.opened.sent + load.kept.sent
    record.add(what=f"{what}: how many", value=changes)
    record.add(what=f"{what}: requests sent", value=sent)
    for cause, number in causes.items():
        record.add(what=f"{what}: answered {cause}", value=number)
    lost = sent - causes.get("200", 0)
    record.add(what=f"{what}: lost or refused", value=lost)
    must(record, f"{what}: requests lost or refused", lost)


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__, seconds=20.0, quick_seconds=4.0)
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second of the open loop")
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    record = Record(question="reload", title="Reloads and rolling restarts under load", columns=("what", "value"))
    reloads(record, given)
    rolling(record, given)
    return finish(record, given.json)


if __name__ == "__main__":
    sys.exit(main())

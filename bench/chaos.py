"""Does every caller get an answer while workers are killed? And how soon is a killed worker replaced?

Connections with one request at a time call three bindings (a short guest, one that sleeps 20 ms, one that waits
150 ms) while a process of its own kills workers at random: SIGKILL or SIGSEGV, ten a second, and now and then a
SIGSTOP, after which a worker neither runs nor ends. Then a server with a single worker tells what a caller notices:
from the kill to the first result of the replacement.

    python -m bench.chaos [--seconds 60] [--kills 10] [--stops 0.5] [--workers 8] [--quick] [--json FILE]

Fails (exit status 1) if a request was never answered, or if processes or descriptors do not return to what they were.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import census
from bench.answers import spread, tally, unanswered
from bench.instance import Served, arguments, binding, finish, labelled, must, three, total
from bench.measure import Bar, Record
from bench.traffic import Shot, Traffic, run, shot

TIMEOUT = "2s"
LOOK_S = 0.0005
REPLACED_WITHIN_S = 5.0


def documents() -> list[str]:
    """The bindings under load."""
    return [
        binding("short", "tiny", timeout=TIMEOUT),
        binding("nap", "sleep", timeout=TIMEOUT),
        binding("wait", "sleep", timeout=TIMEOUT),
    ]


SHOTS = (shot("short", "short", "hello"), shot("20 ms", "nap", args="20"), shot("150 ms", "wait", args="150"))


def up(worker: int) -> bool:
    """Return whether a worker has said READY, seen from outside: it starts its deadline thread just before."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{worker}/task")) > 1
    return False


def killer(front: int, seconds: float, kills: float, stops: float, seed: int, report: Connection) -> None:
    """Kill and stop workers at random instants; then report. Runs in a process of its own.

    Parameters:
        kills: a second.
        stops: a second.
    """
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    recoveries: list[float] = []
    counts = {"SIGKILL": 0, "SIGSEGV": 0, "SIGSTOP": 0}
    unreplaced = 0
    stopped: dict[int, float] = {}
    stopped_for: list[float] = []
    while True:
        time.sleep(min(chance.expovariate(kills + stops), 1.0))
        for pid in [pid for pid in stopped if not Path(f"/proc/{pid}").exists()]:
            stopped_for.append(time.monotonic() - stopped.pop(pid))
        if time.monotonic() >= end:
            break
        before = census.workers(front)
        able = [pid for pid in before if pid not in stopped and up(pid)]
        if not able:
            continue
        victim = chance.choice(able)
        number = signal.SIGSTOP if chance.random() < stops / (kills + stops) else chance.choice(KILLS)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, number)
            counts[number.name] += 1
        if number is signal.SIGSTOP:
            stopped[victim] = time.monotonic()
            continue
        killed = time.monotonic()
        while not any(up(pid) for pid in census.workers(front) if pid not in before):
            if time.monotonic() - killed > REPLACED_WITHIN_S:
                unreplaced += 1
                break
            time.sleep(LOOK_S)
        else:
            recoveries.append((time.monotonic() - killed) * 1000)
    left = 0
    for pid in stopped:
        # One that was idle when it was stopped is noticed when it is given work; that may not have happened.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            left += 1
    report.send(
        {
            "signals": counts,
            "recovery_ms": recoveries,
            "unreplaced": unreplaced,
            "stopped_until_replaced_s": stopped_for,
            "stopped_and_idle_to_the_end": left,
        }
    )


KILLS = (signal.SIGKILL, signal.SIGSEGV)


def storm(options: argparse.Namespace) -> dict[str, Any]:
    """Load and kills at the same time."""
    with Served(documents(), workers=options.workers, settings={"LOGGING_LEVEL": "info"}) as server:
        load = Traffic(server.port)
        run(lambda: warm_up(load, options.connections))
        load = Traffic(server.port)
        before = census.settled(server.pid, workers_wanted=options.workers)
        metrics = server.metrics()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        assassin = context.Process(
            target=killer,
            args=(server.pid, options.seconds, options.kills, options.stops, options.seed, theirs),
            daemon=True,
        )
        assassin.start()
        theirs.close()
        run(lambda: calls(load, options.connections, assassin.is_alive))
        killed = ours.recv()
        assassin.join(10)
        after = census.settled(server.pid, workers_wanted=options.workers, former=before)
        delta = {name: value - metrics.get(name, 0) for name, value in server.metrics().items()}
        status = server.stop()
    counts = tally(load.answers)
    latencies = {
        one.kind: [a.latency_ms for a in load.answers if a.kind == one.kind and a.status == 200] for one in SHOTS
    }
    return {
        "sent": load.sent,
        "answers": counts,
        "answered_200": counts.get("200", 0),
        "never_answered": unanswered(counts) + load.sent - len(load.answers),
        "killed": killed,
        "recovery_ms": spread(killed["recovery_ms"]),
        "latency_ms": {kind: spread(values) for kind, values in latencies.items()},
        "worker_starts": total(delta, "sandboxd_worker_starts_total"),
        "worker_exits": labelled(delta, "sandboxd_worker_exits_total", "reason"),
        "redelivered": total(delta, "sandboxd_pool_redelivered_total"),
        "outcomes": labelled(delta, "sandboxd_requests_total", "outcome"),
        "before": before.asdict(),
        "after": after.asdict(),
        "exit_status": status,
    }


async def warm_up(load: Traffic, connections: int) -> None:
    """Have every worker run something, so that the counts before are those of a server at work."""
    left = [60 * connections]

    def pick() -> Shot | None:
        left[0] -= 1
        return None if left[0] < 0 else SHOTS[left[0] % 2]

    await load.steady(connections, pick)


async def calls(load: Traffic, connections: int, go_on: Callable[[], bool]) -> None:
    """Closed loops, a third of the connections for each binding, while `go_on`."""
    async with asyncio.TaskGroup() as tasks:
        for index in range(connections):
            one = SHOTS[index % len(SHOTS)]
            tasks.create_task(load.steady(1, lambda one=one: one if go_on() else None))  # type: ignore[misc]


def single(rounds: int) -> dict[str, Any]:
    """From killing the only worker to the next result, as a caller sees it: the request is sent right after."""
    took: list[float] = []
    with Served(documents(), workers=1) as server:
        load = Traffic(server.port)

        async def kill_each() -> None:
            last: list[int] = []
            for _ in range(rounds):
                while not (found := census.workers(server.pid)) or found == last:  # noqa: ASYNC110 - another process is looked at
                    await asyncio.sleep(0.005)
                last = found
                await load.once(SHOTS[0])
                os.kill(found[0], signal.SIGKILL)
                killed = time.monotonic_ns()
                # What the front sends before it knows is not begun by the dead worker, and goes to the next one.
                while (await load.once(SHOTS[0])).status != 200:
                    pass
                took.append((load.answers[-1].done_ns - killed) / 1e6)

        run(kill_each)
    return {"samples": took, "answers": tally(load.answers)}


def judge(record: Record, found: dict[str, Any]) -> None:
    """Return the bars: what must not happen."""
    must(record, "requests never answered", found["never_answered"])
    must(record, f"kills without a replacement within {REPLACED_WITHIN_S:g} s", found["killed"]["unreplaced"])
    must(record, "exit status of the server", found["exit_status"])
    for what in COUNTED:
        must(record, f"{what.replace('_', ' ')} gained", found["after"][what] - found["before"][what])
    record.bars.append(
        Bar(what="kill to READY of the replacement, median", want=50.0, got=found["recovery_ms"]["p50"], unit="ms")
    )


COUNTED = ("zygotes", "workers", "others", "zombies", "front_fds", "zygote_fds", "worker_fds")


def fill(record: Record, found: dict[str, Any]) -> None:
    """The table."""
    killed = found["killed"]

    def row(figure: str, value: object, **more: Any) -> None:
        record.add(figure=figure, value=value, **more)

    row("requests sent", found["sent"])
    for cause, count in found["answers"].items():
        row(f"answered: {cause}", count)
    row("never answered", found["never_answered"])
    for name, count in killed["signals"].items():
        row(f"workers hit by {name}", count)
    row("kill to READY of the replacement, p50 / p99 / max", three(found["recovery_ms"]), samples=killed["recovery_ms"])
    first = found["single"]
    row("kill of the only worker to the next result, p50 / p99 / max", three(spread(first["samples"])), **first)
    stops = killed["stopped_until_replaced_s"]
    row("stopped workers replaced after", f"{min(stops, default=0):.1f} - {max(stops, default=0):.1f} s", samples=stops)
    row("workers stopped while idle and not given work since", killed["stopped_and_idle_to_the_end"])
    for kind, latencies in found["latency_ms"].items():
        row(f"latency of the answers 200, {kind} guest, p50 / p99 / max", three(latencies))
    row("worker starts", found["worker_starts"])
    for reason, count in found["worker_exits"].items():
        row(f"worker exits: {reason}", count)
    row("invocations given to another worker", found["redelivered"])
    for what in found["before"]:
        row(f"{what.replace('_', ' ')} before / after", f"{found['before'][what]} / {found['after'][what]}")


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__, seconds=60.0, quick_seconds=8.0)
    parser.add_argument("--kills", type=float, default=10.0, help="a second")
    parser.add_argument("--stops", type=float, default=0.5, help="a second")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--connections", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=30, help="kills of the only worker")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    record = Record(
        question="chaos",
        title="Callers and workers while workers are killed",
        columns=("figure", "value"),
        notes=[f"{given.seconds:g} s, {given.connections} connections, {given.workers} workers, seed {given.seed}"],
    )
    found = storm(given)
    found["single"] = single(given.rounds)
    fill(record, found)
    judge(record, found)
    return finish(record, given.json)


if __name__ == "__main__":
    sys.exit(main())

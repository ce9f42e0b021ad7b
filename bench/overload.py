"""Measures a server under overload: at 0.5 to 5 times its capacity.

Capacity is measured first, with enough connections to keep every worker busy and nobody refused. Then requests arrive
in an open loop (Poisson), whatever becomes of the earlier ones, for each load in turn. Three guests: one that waits
(workers are scarce, the machine is not), one that computes (processor time is scarce, and refusing costs some of it),
and a tiny one (the front is scarce). No generator beside the server sends five times what it answers for the tiny one,
so there is a crowd, too: callers who ask again as soon as they have an answer, one to ten times as many as may wait.
What becomes of the accepted requests there is a matter of the front alone.

    python -m bench.overload [--seconds 10] [--guests waiting,computing,tiny,crowd] [--loads 0.5,1,2,5] [--json FILE]

Fails (exit status 1) if a request gets no answer or a refusal lacks Retry-After. Bars, for the waiting and the
computing guest: answers of 200 stay at 90 % of the peak or more, refusals take less than 20 ms at the 99th percentile,
and the front's memory does not grow.
"""

import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import census, load, targets
from bench.answers import quantiles, tally, unanswered
from bench.instance import Served, arguments, binding, computing, finish, must, total
from bench.measure import Bar, Record
from bench.targets import Target
from bench.traffic import Shot, Traffic, run, shot

REFUSED = "503 no worker is free and too many requests are waiting already"
CROWD = 64
"""The queue limit for the crowd."""
MEMORY_KIB = 16 * 1024
"""Growth of the front that is allowed from the first overload to the last: what a thousand more connections hold."""


@dataclass(frozen=True)
class Guest:
    """One kind of load."""

    name: str
    document: str
    shot: Shot
    workers: int
    queue_limit: int
    judged: bool
    """Whether the bars apply. What limits the tiny guest is the front, which refuses hardly faster than it answers."""


def guests(chosen: str, folder: Path) -> list[Guest]:
    """The kinds named in a comma-separated list."""
    every = [
        Guest("waiting", binding("nap", "sleep"), shot("nap", "nap", args="20"), 8, 32, True),
        Guest("computing", computing("work", folder, 10_000_000), shot("work", "work"), 2, 16, True),
        Guest("tiny", binding("tiny", "tiny"), shot("tiny", "tiny", "hello"), 2, 64, False),
    ]
    return [guest for guest in every if guest.name in chosen.split(",")]


class Watching(threading.Thread):
    """Notes the largest resident memory of the front while it runs."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self.largest_kib = 0

    def run(self) -> None:
        while not self._over.wait(0.1):
            self.largest_kib = max(self.largest_kib, census.resident_kib(self._pid))

    def stop(self) -> int:
        self._over.set()
        self.join(5)
        return self.largest_kib


def capacity(server: Served, guest: Guest, seconds: float) -> float:
    """Answers a second with every worker busy and nobody refused."""
    traffic = Traffic(server.port)
    end = time.monotonic() + seconds + 0.5

    async def closed() -> None:
        await traffic.steady(guest.workers * 3, lambda: guest.shot if time.monotonic() < end else None)

    run(closed)
    begin = end - seconds
    counted = [a for a in traffic.answers if a.status == 200 and begin <= a.done_ns / 1e9 < end]
    return len(counted) / seconds


def offer(server: Served, guest: Guest, rate: float, seconds: float) -> dict[str, Any]:
    """One load."""
    traffic = Traffic(server.port, connections_max=2000)
    watching = Watching(server.pid)
    watching.start()
    cpu = census.cpu_seconds(server.pid)

    async def arrivals() -> tuple[float, float]:
        began = time.monotonic()
        await traffic.offer(rate, seconds, lambda: guest.shot)
        ended = time.monotonic()
        await traffic.settle()
        await traffic.close()
        return began, ended

    began, ended = run(arrivals)
    cpu = census.cpu_seconds(server.pid) - cpu
    answers = traffic.answers
    good = [a for a in answers if a.status == 200]
    refused = [a for a in answers if a.status == 503]
    # Counted while load is offered, so that the queue that is worked off afterwards does not flatter.
    within = [a for a in good if began <= a.done_ns / 1e9 < ended]
    return {
        "offered_per_s": round(len(answers) / (ended - began), 1),
        "accepted_per_s": round(len(within) / (ended - began), 1),
        "refused_per_s": round(len(refused) / (ended - began), 1),
        "answers": tally(answers),
        "unanswered": unanswered(tally(answers)) + traffic.sent - len(answers),
        "accepted_ms": quantiles((a.latency_ms for a in good), 0.5, 0.99),
        "refused_ms": quantiles((a.answered_ms for a in refused), 0.5, 0.99, 1.0),
        "without_retry_after": sum(1 for a in refused if not a.retry_after.isdigit()),
        "late_p99_ms": quantiles(traffic.late_ms, 0.99)[0],
        "front_kib": watching.stop(),
        "front_cpu": round(cpu / (ended - began), 2),
    }


def measure(record: Record, guest: Guest, loads: list[float], seconds: float) -> None:
    """All loads on one guest."""
    settings = {"POOL_QUEUE_LIMIT": str(guest.queue_limit), "RELOAD_WATCH": "false"}
    with Served([guest.document], workers=guest.workers, settings=settings) as server:
        full = capacity(server, guest, min(seconds, 5.0))
        rows = []
        for times in loads:
            found = offer(server, guest, full * times, seconds)
            rows.append(
                record.add(
                    guest=guest.name,
                    load=times,
                    offered=found["offered_per_s"],
                    accepted=found["accepted_per_s"],
                    of_capacity=round(found["accepted_per_s"] / full, 3),
                    refused=found["refused_per_s"],
                    accepted_p50_ms=found["accepted_ms"][0],
                    accepted_p99_ms=found["accepted_ms"][1],
                    refused_p50_ms=found["refused_ms"][0],
                    refused_p99_ms=found["refused_ms"][1],
                    front_cpu=found["front_cpu"],
                    front_MiB=round(found["front_kib"] / 1024, 1),
                    late_p99_ms=found["late_p99_ms"],
                    **{k: found[k] for k in ("answers", "unanswered", "without_retry_after")},
                )
            )
        rejected = total(server.metrics(), "sandboxd_pool_rejected_total")
    record.notes.append(
        f"{guest.name}: capacity {full:.0f}/s with {guest.workers} workers, queue limit {guest.queue_limit};"
        f" {rejected} refused by the server's own count"
    )
    judge(record, guest, rows)


def judge(record: Record, guest: Guest, rows: list[dict[str, Any]]) -> None:
    """The bars."""
    must(record, f"{guest.name}: requests never answered", sum(row["unanswered"] for row in rows))
    must(record, f"{guest.name}: refusals without Retry-After", sum(row["without_retry_after"] for row in rows))
    over = [row for row in rows if row["load"] > 1]
    if not guest.judged or not over:
        return
    peak = max(row["accepted"] for row in rows)
    worst = min(row["accepted"] for row in over)
    record.bars.append(
        Bar(what=f"{guest.name}: accepted under overload, of the peak", want=0.9, got=worst / peak, at_least=True)
    )
    slowest = max(row["refused_p99_ms"] for row in over)
    record.bars.append(Bar(what=f"{guest.name}: refusals, p99", want=20.0, got=slowest, unit="ms"))
    grown = over[-1]["front_MiB"] - over[0]["front_MiB"]
    record.bars.append(
        Bar(what=f"{guest.name}: growth of the front under overload", want=MEMORY_KIB / 1024, got=grown, unit="MiB")
    )


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__, seconds=10.0, quick_seconds=4.0)
    parser.add_argument("--guests", default="waiting,computing,tiny,crowd")
    parser.add_argument("--loads", default="0.5,0.8,1,1.5,2,3,5", type=_numbers)
    given = parser.parse_args()
    record = Record(
        question="overload",
        title="Overload: answers and refusals by offered load",
        columns=(
            "guest",
            "load",
            "offered",
            "accepted",
            "refused",
            "accepted_p50_ms",
            "accepted_p99_ms",
            "refused_p50_ms",
            "refused_p99_ms",
            "front_cpu",
            "front_MiB",
            "late_p99_ms",
        ),
        plot={
            "kind": "lines",
            "x": "load",
            "y": "of_capacity",
            "series": ["guest"],
            "xlabel": "offered load, times capacity",
            "ylabel": "answers of 200, of capacity",
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        for guest in guests(given.guests, Path(folder)):
            measure(record, guest, given.loads, given.seconds)
    if "crowd" in given.guests.split(","):
        crowd(record, min(given.seconds, 5.0))
    return finish(record, given.json)


def crowd(record: Record, seconds: float) -> None:
    """Callers in a closed loop, more and more of them. Their latencies are those of all answers."""
    settings = {"POOL_QUEUE_LIMIT": str(CROWD), "RELOAD_WATCH": "false"}
    body = targets.wrapped("hello")
    with Served([binding("tiny", "tiny")], workers=2, settings=settings) as server:
        target = Target(name="crowd", url=f"http://127.0.0.1:{server.port}/v1.0/bindings/tiny", front=server.pid)
        load.warm(target, body, connections=1)
        rows = []
        for times in (1, 2, 5, 10):
            watching = Watching(server.pid)
            watching.start()
            found = load.closed_loop(target, body, connections=times * CROWD, seconds=seconds, threads=1)
            took = found.requests / found.rps
            accepted = (found.requests - found.failed) / took
            peak = max([accepted, *(row["accepted"] for row in rows)])
            rows.append(
                record.add(
                    guest="crowd",
                    load=times,
                    offered=round(found.rps, 1),
                    accepted=round(accepted, 1),
                    of_capacity=round(accepted / peak, 3),
                    refused=round(found.failed / took, 1),
                    accepted_p50_ms=round(found.p50_us / 1e3, 2),
                    accepted_p99_ms=round(found.p99_us / 1e3, 2),
                    refused_p50_ms="",
                    refused_p99_ms="",
                    front_cpu=round(found.front_cpu_us * found.rps / 1e6, 2),
                    front_MiB=round(watching.stop() / 1024, 1),
                    late_p99_ms="",
                )
            )
    record.notes.append(
        f"crowd: load is the number of callers over {CROWD}, the queue limit; latencies are of all answers"
    )
    worst = min(row["accepted"] for row in rows[1:]) / max(row["accepted"] for row in rows)
    slowest = rows[2]["accepted_p99_ms"]
    record.bars.append(Bar(what="crowd: accepted, of the peak", want=0.85, got=round(worst, 3), at_least=True))
    record.bars.append(
        Bar(what="crowd: five times as many callers, p99 of all answers", want=250.0, got=slowest, unit="ms")
    )
    grown = rows[-1]["front_MiB"] - rows[0]["front_MiB"]
    record.bars.append(Bar(what="crowd: growth of the front", want=MEMORY_KIB / 1024, got=round(grown, 1), unit="MiB"))


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())

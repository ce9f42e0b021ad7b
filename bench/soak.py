"""Does anything grow? Many invocations that end in every way there is; then everything is counted again.

Guests that succeed, exit, trap, run into their deadline while computing and while asleep, take too much memory, write
too much to stdout and to stderr; callers that hang up, send what is no request, ask for what does not exist; large
bodies; and now and then a worker is killed. What the server holds is counted after every kind was sent on every
connection and after a twentieth of the requests, and again at the end.

    python -m bench.soak [--count 200000] [--connections 16] [--workers 4] [--quick] [--json FILE]

Fails (exit status 1) if a request was never answered, or if processes or descriptors differ. Bars: how much the memory
of each kind of process may have grown.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from typing import Any

from bench import census
from bench.answers import Answer, unanswered
from bench.instance import Served, arguments, binding, finish, labelled, must, total
from bench.measure import Bar, Record
from bench.traffic import Shot, Traffic, mix, run, shot

FRONT_GROWTH_MIB = 4.0
"""Private memory: the allocator keeps what the largest bodies needed, and it does not need it at the same place."""
ZYGOTE_GROWTH_MIB = 2.0
WORKER_GROWTH_MIB = 8.0
"""A worker's stdout, stdin and memory slots are as large as the largest of each it has seen."""
KILL_EVERY = 4_000
SAMPLES = 40

DOCUMENTS = (
    binding("tiny", "tiny"),
    binding("echo", "echo"),
    binding("exit", "exit"),
    binding("trap", "trap"),
    binding("spin", "loop", timeout="30ms"),
    binding("asleep", "sleep", timeout="30ms"),
    binding("patient", "loop", timeout="2s"),
    binding("greedy", "grow", memoryLimit="2Mi"),
    binding("flood", "flood", stdoutLimit="64Ki"),
    binding("stderr", "stderr"),
)


def shots() -> list[tuple[float, Shot]]:
    """Everything that is sent, by weight: shares of a thousand."""
    return [
        (400, shot("ok", "tiny", "hello")),
        (120, shot("ok 4 KiB", "echo", "x" * 4096)),
        (2, shot("ok 1 MiB", "echo", "x" * (1 << 20))),
        (100, shot("exit", "exit", args="3,out,err")),
        (100, shot("trap", "trap")),
        (8, shot("deadline computing", "spin")),
        (8, shot("deadline asleep", "asleep", args="5000")),
        (50, shot("memory, abort", "greedy", args="malloc")),
        (20, shot("memory, exit", "greedy", args="exit")),
        (50, shot("stdout", "flood", args="1000000")),
        (20, shot("stderr", "stderr", args="flood,200")),
        (1, shot("hung up while running", "patient", hang_up_after_s=0.05)),
        (20, shot("hung up at once", "tiny", "hello", hang_up_after_s=0.0001)),
        (30, shot("no JSON", "tiny", body=b'{"operation": "execute", ')),
        (30, shot("no operation", "tiny", body=b'{"data": 1}')),
        (20, shot("other operation", "tiny", body=b'{"operation": "create"}')),
        (20, shot("no such binding", "nobody", "hello")),
        (1, shot("body too long", "echo", "x" * (5 << 20))),
    ]


class Soak:
    """One server, and what was seen of it."""

    def __init__(self, server: Served, connections: int, workers: int, seed: int) -> None:
        self.server = server
        self.samples: list[dict[str, Any]] = []
        self.ended: Counter[tuple[str, str]] = Counter()
        self.causes: Counter[str] = Counter()
        self.killed = 0
        self._connections = connections
        self._workers = workers
        self._first = [one for _, one in shots() for _ in range(connections)]
        self._drawn = mix(shots(), seed)
        self._chance = random.Random(seed)
        self._sent = 0

    def send(self, count: int, former: census.Census | None = None) -> census.Census:
        """Send so many more requests.

        Parameters:
            former: an earlier count.

        Returns:
            what the server holds when all is quiet again.
        """
        traffic = Traffic(self.server.port, keep=False)
        traffic.seen = self._seen
        end = self._sent + count
        sample_every = max(1, count // SAMPLES)

        def pick() -> Shot | None:
            if self._sent >= end:
                return None
            self._sent += 1
            if self._sent % KILL_EVERY == 0:
                self._kill_one()
            if self._sent % sample_every == 0:
                self._sample()
            return self._first.pop() if self._first else self._drawn()

        async def all_of_them() -> None:
            await traffic.steady(self._connections, pick)
            await traffic.close()

        run(all_of_them)
        return census.settled(self.server.pid, workers_wanted=self._workers, former=former)

    def _seen(self, answer: Answer) -> None:
        cause = answer.cause
        self.ended[answer.kind, cause] += 1
        self.causes[cause] += 1

    def _kill_one(self) -> None:
        workers = census.workers(self.server.pid)
        if workers:
            os.kill(self._chance.choice(workers), signal.SIGKILL)
            self.killed += 1

    def _sample(self) -> None:
        self.samples.append({"requests": self._sent, **census.take(self.server.pid).asdict()})


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__, seconds=0, quick_seconds=0)
    parser.add_argument("--count", type=int, help="requests; default 200000, with --quick 10000")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    count = given.count or (10_000 if given.quick else 200_000)
    record = Record(question="soak", title="What is left after many requests", columns=("figure", "before", "after"))
    settings = {"LOGGING_LEVEL": "error", "RELOAD_WATCH": "false"}
    with Served(DOCUMENTS, workers=given.workers, settings=settings) as server:
        began = time.monotonic()
        soak = Soak(server, given.connections, given.workers, given.seed)
        before = soak.send(count // 20)
        counted = server.metrics()
        after = soak.send(count - count // 20, before)
        took = time.monotonic() - began
        metrics = server.metrics()
        status = server.stop()
    fill(record, soak, before, after, metrics)
    record.notes.append(
        f"{count} requests in {took:.0f} s on {given.connections} connections, {given.workers} workers,"
        f" {soak.killed} workers killed, seed {given.seed}"
    )
    restarts = total(metrics, "sandboxd_worker_starts_total") - total(counted, "sandboxd_worker_starts_total")
    record.notes.append(f"{restarts} workers started between the two counts")
    judge(record, soak, before, after, status)
    return finish(record, given.json)


def fill(record: Record, soak: Soak, before: census.Census, after: census.Census, metrics: dict[str, float]) -> None:
    """The table; its first row holds the samples over time."""
    last = after.asdict()
    for what, first in before.asdict().items():
        record.add(figure=what.replace("_", " "), before=first, after=last[what])
    for outcome, number in sorted(labelled(metrics, "sandboxd_requests_total", "outcome").items()):
        record.add(figure=f"outcome {outcome} (the server's count)", before="", after=number)
    for (kind, cause), number in sorted(soak.ended.items()):
        record.add(figure=f"{kind}: {cause}", before="", after=number)
    for reason, number in sorted(labelled(metrics, "sandboxd_worker_exits_total", "reason").items()):
        record.add(figure=f"workers ended: {reason}", before="", after=number)
    record.rows[0]["samples"] = soak.samples


def judge(record: Record, soak: Soak, before: census.Census, after: census.Census, status: int) -> None:
    """The bars."""
    must(record, "requests never answered", unanswered(soak.causes))
    must(record, "exit status of the server", status)
    for what in ("zygotes", "workers", "others", "zombies", "front_fds", "zygote_fds", "worker_fds"):
        first, last = getattr(before, what), getattr(after, what)
        must(record, f"{what.replace('_', ' ')} gained or lost", abs(last - first))
    for what, most in (
        ("front_kib", FRONT_GROWTH_MIB),
        ("zygote_kib", ZYGOTE_GROWTH_MIB),
        ("worker_kib", WORKER_GROWTH_MIB),
    ):
        grown = round((getattr(after, what) - getattr(before, what)) / 1024, 2)
        who = what.removesuffix("_kib")
        record.bars.append(Bar(what=f"growth of the {who}'s memory", want=most, got=grown, unit="MiB"))


if __name__ == "__main__":
    sys.exit(main())

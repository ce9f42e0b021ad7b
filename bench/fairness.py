"""Measures the throughput that one hanging binding leaves to the others.

Every guest of one binding runs until its deadline, and its callers, three to a worker, ask again at once. Callers of
another binding (20 ms asleep), two to a worker, do as they always do. Which part of the workers does each hold, and how
long do the others wait? Compared: nobody hangs; no bound on a binding's share (`maxBindingShare` 100); the default;
half; `maxConcurrency` on the binding that hangs; and callers of it that overfill their part of the queue, so that they
are refused and ask again at once.

    python -m bench.fairness [--seconds 10] [--workers 8] [--quick] [--json FILE]

Fails (exit status 1) if the hanging binding holds more than its bound while the others wait, or a request gets no
answer. Bar: a worker that is left to the others gives them at least 85 % of what it gives while nobody hangs.
"""

import asyncio
import math
import sys
import time
from dataclasses import dataclass

from bench.answers import Answer, quantiles, tally, unanswered
from bench.instance import Served, arguments, binding, finish, must
from bench.measure import Bar, Record
from bench.traffic import Shot, Traffic, run, shot

NAP_S = 0.02
TIMEOUT_S = 0.5
SETTLE_S = 3 * TIMEOUT_S
LEAST = 0.85
# Asleep and not computing: workers are shared here, not processors.
HANG = shot("hang", "hang", args="100000")
NAP = shot("nap", "nap", args=f"{NAP_S * 1000:.0f}")


@dataclass(frozen=True)
class Case:
    """One configuration."""

    name: str
    hangs: bool = True
    share: int = 100
    """maxBindingShare, percent."""
    max_concurrency: int = 0
    """Of the hanging binding; 0 leaves it out."""
    callers: int = 3
    """Of the hanging binding, for each worker."""
    queue_limit: int = 1000

    @property
    def bounded(self) -> bool:
        """Whether anything keeps the hanging binding from holding all workers."""
        return self.hangs and (self.share < 100 or self.max_concurrency > 0)

    def most(self, workers: int) -> int:
        """Workers that one binding may hold under `share` while others wait."""
        return max(1, math.floor(workers * self.share / 100))

    def held(self, workers: int) -> int:
        """Workers that the hanging binding may hold."""
        return (self.max_concurrency or self.most(workers)) if self.hangs else 0

    def left(self, workers: int) -> int:
        """Workers that the other one can count on."""
        return min(workers - self.held(workers), self.most(workers))


CASES = (
    Case("nobody hangs", hangs=False),
    Case("no bound"),
    Case("maxBindingShare 75 (default)", share=75),
    Case("maxBindingShare 50", share=50),
    Case("maxConcurrency 2", max_concurrency=2),
    Case("maxBindingShare 75, more callers than the queue takes", share=75, callers=10, queue_limit=64),
)


def measure(record: Record, case: Case, workers: int, seconds: float, alone: float) -> float:
    """One configuration.

    Parameters:
        alone: answers a second that one worker gives the others while nobody hangs; 0 if this is to find out.

    Returns:
        the same under this one.
    """
    hang = {"timeout": f"{TIMEOUT_S * 1000:.0f}ms"}
    if case.max_concurrency:
        hang["maxConcurrency"] = str(case.max_concurrency)
    documents = [binding("hang", "sleep", **hang), binding("nap", "sleep", timeout="10s")]
    settings = {"POOL_MAX_BINDING_SHARE": str(case.share), "POOL_QUEUE_LIMIT": str(case.queue_limit)}
    settings |= {"RELOAD_WATCH": "false", "LOGGING_LEVEL": "warning"}
    with Served(documents, workers=workers, settings=settings) as server:
        traffic = Traffic(server.port)

        async def callers() -> tuple[float, dict[str, float], dict[str, float], list[Answer]]:
            end = time.monotonic() + SETTLE_S + seconds + 0.2

            def pick(one: Shot) -> Shot | None:
                return one if time.monotonic() < end else None

            async with asyncio.TaskGroup() as tasks:
                if case.hangs:
                    tasks.create_task(traffic.steady(case.callers * workers, lambda: pick(HANG)))
                tasks.create_task(traffic.steady(2 * workers, lambda: pick(NAP)))
                # Whoever comes first to an idle server may borrow all of it until the others wait.
                await asyncio.sleep(SETTLE_S)
                before, began, first = await asyncio.to_thread(server.metrics), time.monotonic(), len(traffic.answers)
                await asyncio.sleep(seconds)
                after, took, last = (
                    await asyncio.to_thread(server.metrics),
                    time.monotonic() - began,
                    len(traffic.answers),
                )
            return took, before, after, traffic.answers[first:last]

        took, before, after, answers = run(callers)
    naps = [answer for answer in answers if answer.kind == "nap" and answer.status == 200]
    causes = tally(traffic.answers)
    running = {
        name: after.get(metric, 0.0) - before.get(metric, 0.0)
        for name in ("hang", "nap")
        for metric in (f'sandboxd_guest_duration_seconds_sum{{binding="{name}"}}',)
    }
    each = len(naps) / took / max(1, case.left(workers))
    row = record.add(
        case=case.name,
        may_hold=case.held(workers),
        held_by_hanging=round(running["hang"] / took, 2),
        held_by_others=round(running["nap"] / took, 2),
        others_per_s=round(len(naps) / took, 1),
        others_of_their_share=round(each / (alone or each), 3),
        others_p50_ms=quantiles((a.latency_ms for a in naps), 0.5)[0],
        others_p99_ms=quantiles((a.latency_ms for a in naps), 0.99)[0],
        answers=causes,
    )
    must(record, f"{case.name}: requests never answered", unanswered(causes))
    if case.bounded:
        must(record, f"{case.name}: workers held by the hanging binding", row["held_by_hanging"], case.held(workers))
        what = f"{case.name}: the others' answers, of what their workers can give"
        record.bars.append(Bar(what=what, want=LEAST, got=row["others_of_their_share"], at_least=True))
    return each


def main() -> int:
    """Measure, print, judge."""
    parser = arguments(__doc__, seconds=10.0, quick_seconds=3.0)
    parser.add_argument("--workers", type=int, default=8)
    given = parser.parse_args()
    record = Record(
        question="fairness",
        title="What a binding that hangs leaves to the others",
        columns=(
            "case",
            "may_hold",
            "held_by_hanging",
            "held_by_others",
            "others_per_s",
            "others_of_their_share",
            "others_p50_ms",
            "others_p99_ms",
        ),
        notes=[f"{given.workers} workers; the hanging guests' deadline is {TIMEOUT_S:g} s"],
    )
    alone = measure(record, CASES[0], given.workers, given.seconds, 0.0)
    for case in CASES[1:]:
        measure(record, case, given.workers, given.seconds, alone)
    return finish(record, given.json)


if __name__ == "__main__":
    sys.exit(main())

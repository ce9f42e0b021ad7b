"""How long do requests take when the server is a little, half, or nearly busy?

Open loop: requests leave at Poisson-distributed instants, whether earlier ones were answered or not, and latency counts
from the planned instant. Capacity is measured first, by a closed loop of the same generator; the no-op endpoint gets
the same fractions of its own capacity.

    python -m bench.tail [--quick] [--rounds N] [--seconds S] [--json FILE]
"""

import functools
import sys

from bench import load, stalls, targets
from bench.measure import GUESTS, Bar, Record, alternate, end, median_of, options, ratio

LOADS = (0.2, 0.5, 0.9)
BAR_LOAD = 0.5
CONNECTIONS = 64
P99_OF_MEDIAN = 3.0
MEDIANS = ("p50_us", "p90_us", "p99_us", "p999_us", "late_p99_us", "front_cpu_us", "worker_cpu_us")


def main() -> int:
    """Measure and print."""
    given = options(__doc__, seconds=5.0)
    record = Record(
        question="tail",
        title="Latency at 20 %, 50 % and 90 % load, open loop",
        columns=("side", "load", "rate", "p50_us", "p90_us", "p99_us", "p999_us", "p99_of_p50", "front_cpu_us",
                 "worker_cpu_us", "late_p99_us", "failed"),
        plot={"kind": "bars", "x": "load", "y": ["p50_us", "p90_us", "p99_us", "p999_us"], "series": ["side"],
              "logy": True, "xlabel": "part of capacity", "ylabel": "microseconds"},
    )  # fmt: skip
    body = targets.wrapped("hello")
    engine = targets.engines()[0]
    floors = [stalls.measure()]
    with targets.sandboxd({"tiny": GUESTS / "tiny.wasm"}, "--engine", engine) as ours, targets.noop(engine) as noop:
        sides = {"sandboxd": ours, "noop": noop}
        capacity = {}
        for name, target in sides.items():
            load.warm(target, body)
            runs = [load.saturate(target, body, connections=16, seconds=given.seconds / 2) for _ in range(3)]
            capacity[name] = median_of(runs, "rps")
        for part in LOADS:
            runs_by_side = alternate(
                {
                    name: functools.partial(
                        load.open_loop,
                        target,
                        body,
                        connections=CONNECTIONS,
                        seconds=given.seconds,
                        rate=capacity[name] * part,
                    )
                    for name, target in sides.items()
                },
                given.rounds,
            )
            for name, found in runs_by_side.items():
                record.add(
                    side=name,
                    load=part,
                    rate=round(capacity[name] * part),
                    p99_of_p50=ratio([run.p99_us for run in found], [run.p50_us for run in found]),
                    **{key: median_of(found, key) for key in MEDIANS},
                    failed=sum(run.failed for run in found),
                    generator_limited=any(run.generator_limited for run in found),
                )
            if part == BAR_LOAD:
                found = runs_by_side["sandboxd"]
                got = ratio([run.p99_us for run in found], [run.p50_us for run in found])
                what = "tiny guest at 50 % load: p99 over the median"
                record.bars.append(Bar(what=what, want=P99_OF_MEDIAN, got=round(got, 2), unit="x"))
    floors.append(stalls.measure())
    # The worse of before and after.
    record.notes.append(stalls.note({key: max(floor[key] for floor in floors) for key in floors[0]}))
    record.notes.append(
        f"{engine}; {CONNECTIONS} connections; {load.generator_name()}; late is how late it noticed an instant"
    )
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())

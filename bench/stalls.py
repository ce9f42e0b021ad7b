"""How long does this machine itself keep a process waiting that wants to run?

One process per CPU, pinned to it, does nothing but look at the clock; where two looks are far apart, something else had
the CPU: an interrupt, another process, or on a virtual machine the host. A request that arrives in such a stall waits
for its end whatever the server does, so this is the floor under every tail latency measured here.

    python -m bench.stalls [SECONDS] [--cpu N]
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence

from bench.measure import python_module

STALL_NS = 20_000
"""A shorter pause is not counted."""
START_NS = 500_000_000
"""What starting one watcher may take."""


def watch(cpu: int, seconds: float, begin_ns: int) -> list[int]:
    """The stalls of one CPU, in nanoseconds; of one that outlasts the watch, what lies within. Keeps it busy.

    Parameters:
        cpu: which.
        seconds: for how long.
        begin_ns: CLOCK_MONOTONIC instant from which on: others may still have to start.
    """
    os.sched_setaffinity(0, {cpu})
    clock = time.monotonic_ns
    stalls = []
    time.sleep(max(0, begin_ns - clock()) / 1e9)
    before = clock()
    end = before + int(seconds * 1e9)
    while before < end:
        now = clock()
        if now - before > STALL_NS:
            stalls.append(min(now, end) - before)
        before = now
    return stalls


def wait_quantile(stalls: Sequence[int], total_ns: float, fraction: float) -> float:
    """Return the wait, in microseconds and at this quantile, of a request that arrives at a random instant.

    A stall of length d makes arrivals wait longer than w for d - w of the time.
    """
    low, high = 0.0, float(max(stalls, default=0))
    while high - low > 100:
        wait = (low + high) / 2
        if sum(stall - wait for stall in stalls if stall > wait) / total_ns > 1 - fraction:
            low = wait
        else:
            high = wait
    return round(high / 1000, 1)


def measure(seconds: float = 2.0) -> dict[str, float]:
    """Watch all CPUs at once: percent of the time lost, and what arrivals wait for that alone, in microseconds."""
    cpus = sorted(os.sched_getaffinity(0))
    begin = time.monotonic_ns() + len(cpus) * START_NS
    watchers = [
        subprocess.Popen(
            python_module("bench.stalls", str(seconds), "--cpu", str(cpu), "--begin", str(begin)),
            stdout=subprocess.PIPE,
        )
        for cpu in cpus
    ]
    stalls: list[int] = []
    for watcher in watchers:
        said, _ = watcher.communicate(timeout=seconds + 30)
        if watcher.returncode:
            raise RuntimeError(f"watching a CPU failed with status {watcher.returncode}")
        stalls += json.loads(said)
    total = seconds * 1e9 * len(cpus)
    return {
        "lost_percent": round(100 * sum(stalls) / total, 2),
        "p99_us": wait_quantile(stalls, total, 0.99),
        "p999_us": wait_quantile(stalls, total, 0.999),
        "longest_ms": round(max(stalls, default=0) / 1e6, 2),
    }


def note(found: Mapping[str, float]) -> str:
    """Return what a record says of a result of `measure`."""
    return (
        f"the machine by itself, doing nothing else (bench/stalls.py): {found['lost_percent']:g} % of CPU time lost, "
        f"for which alone arrivals wait {found['p99_us']:g} us at p99"
    )


def main() -> None:
    """Watch all CPUs, or one, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seconds", type=float, nargs="?", default=2.0)
    parser.add_argument("--cpu", type=int, help="only this one; prints its stalls in nanoseconds")
    parser.add_argument("--begin", type=int, default=0, help="CLOCK_MONOTONIC instant in nanoseconds")
    given = parser.parse_args()
    print(json.dumps(measure(given.seconds) if given.cpu is None else watch(given.cpu, given.seconds, given.begin)))


if __name__ == "__main__":
    main()

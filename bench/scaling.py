"""How do requests per second grow with workers: for guests that compute, and for guests that wait on an origin?

Computing: a Rust guest counts the words of 16 KiB. Waiting: a C guest makes one request through Dapr's wasi-http ABI to
an origin that answers after 100 ms; as many connections as workers.

    python -m bench.scaling [--quick] [--rounds N] [--seconds S] [--json FILE]
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from bench import load, targets
from bench.measure import GUESTS, Bar, Record, end, median_of, options, python_module
from tests.host.legacy_guests import c_client

WAIT_MS = 100
WAITING_BAR = 550.0
WORKERS = (1, 2, 4, 8, 16, 32, 64)
QUICK_WORKERS = (1, 4, 64)


@contextlib.contextmanager
def slow_origin() -> Iterator[int]:
    """The port of an origin that answers after WAIT_MS."""
    process = subprocess.Popen(
        python_module("bench.origin", str(WAIT_MS)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def main() -> int:
    """Measure and print."""
    given = options(__doc__, rounds=3)
    record = Record(
        question="scaling",
        title="Requests per second by number of workers",
        columns=("guest", "workers", "connections", "rps", "ideal", "p50_us", "p99_us", "front_cpu_us",
                 "worker_cpu_us", "failed"),
        plot={"kind": "lines", "x": "workers", "y": "rps", "series": ["guest"], "logx": True, "logy": True,
              "xlabel": "workers", "ylabel": "requests per second"},
    )  # fmt: skip
    words = "the quick brown fox jumps over the lazy dog and does not look back " * 240
    with slow_origin() as port:
        computing = targets.wrapped(words)
        waiting = targets.wrapped("", args=f"http://127.0.0.1:{port}/")
        cases = (("computing", GUESTS / "tally.wasm", computing), ("waiting", c_client(), waiting))
        for name, guest, body in cases:
            for workers in QUICK_WORKERS if given.quick else WORKERS:
                connections = workers if name == "waiting" else max(8, 2 * workers)
                # The waiting guest writes a line to stderr in every run; what logging costs is not asked here.
                hosts = {"allowedOutboundHosts": f"http://127.0.0.1:{port}", "stderrLimit": "0"}
                with targets.sandboxd({name: guest}, "--workers", str(workers), metadata=hosts) as target:
                    # Connections to the origin are made by the first requests.
                    load.saturate(target, body, connections=connections, seconds=max(1.0, given.seconds / 2))
                    runs = [
                        load.saturate(target, body, connections=connections, seconds=given.seconds)
                        for _ in range(given.rounds)
                    ]
                rps = median_of(runs, "rps")
                record.add(
                    guest=name,
                    workers=workers,
                    connections=connections,
                    rps=round(rps, 1),
                    ideal=workers * 1000 / WAIT_MS if name == "waiting" else "",
                    **{key: median_of(runs, key) for key in ("p50_us", "p99_us", "front_cpu_us", "worker_cpu_us")},
                    failed=sum(run.failed for run in runs),
                )
                if name == "waiting" and workers == 64:
                    what = f"64 guests waiting {WAIT_MS} ms on an origin, 64 workers"
                    record.bars.append(Bar(what=what, want=WAITING_BAR, got=round(rps, 1), unit="req/s", at_least=True))
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())

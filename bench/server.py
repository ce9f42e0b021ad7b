"""How many requests per second does the whole server answer, and how long does one take?

sandboxd with a tiny guest, against the same engine (uvicorn, Hypercorn) serving a no-op Starlette endpoint in the same
process layout: same loop, same HTTP parser, one process. Closed loop; rounds of all sides alternate; a ratio is the
median of the rounds' ratios. With PEER_URL, or a daprd, the same requests go to that peer too (bench/peers.py).

    python -m bench.server [--quick] [--rounds N] [--seconds S] [--json FILE]
"""

import contextlib
import functools
import statistics
import sys
from collections.abc import Mapping

from bench import load, peers, targets
from bench.load import Run
from bench.measure import GUESTS, Bar, Options, Record, alternate, end, median_of, options, ratio
from bench.targets import Target

CONNECTIONS = (1, 4, 16, 64, 256)
QUICK_CONNECTIONS = (1, 16, 64)
STREAMS = 4
BARS = {"uvicorn": 0.60, "hypercorn": 0.75}
ADDED_US = 150.0


def sides_of(engine: str, stack: contextlib.ExitStack, body: bytes) -> dict[str, Target]:
    """Everything that is measured beside each other on one engine, warmed up."""
    sides = {
        "sandboxd": stack.enter_context(targets.sandboxd({"tiny": GUESTS / "tiny.wasm"}, "--engine", engine)),
        "noop": stack.enter_context(targets.noop(engine)),
    }
    if engine == targets.engines()[0]:
        sides |= stack.enter_context(peers.present({"tiny": GUESTS / "tiny.wasm"}))
    for target in sides.values():
        load.warm(target, body)
    return sides


def compare(record: Record, engine: str, protocol: str, connections: int, sides: Mapping[str, Target], given: Options,
            body: bytes) -> dict[str, list[Run]]:  # fmt: skip
    """One row per side."""
    http2 = protocol == "h2"
    runs = alternate(
        {
            name: functools.partial(
                load.closed_loop,
                target,
                body,
                connections=connections,
                seconds=given.seconds,
                http2=http2,
                streams=STREAMS if http2 else 1,
            )
            for name, target in sides.items()
        },
        given.rounds,
    )
    for name, found in runs.items():
        record.add(
            engine=engine,
            protocol=protocol,
            connections=connections,
            side=name,
            rps=round(median_of(found, "rps")),
            of_noop=ratio([run.rps for run in found], [run.rps for run in runs["noop"]]),
            p50_us=median_of(found, "p50_us"),
            p90_us=median_of(found, "p90_us"),
            p99_us=median_of(found, "p99_us"),
            front_cpu_us=median_of(found, "front_cpu_us"),
            worker_cpu_us=median_of(found, "worker_cpu_us"),
            failed=sum(run.failed for run in found),
            generator_limited=any(run.generator_limited for run in found),
            rounds_rps=[run.rps for run in found],
        )
    return runs


def main() -> int:
    """Measure and print."""
    given = options(__doc__)
    record = Record(
        question="server",
        title="The whole server: tiny guest, against a no-op Starlette endpoint on the same engine",
        columns=("engine", "protocol", "connections", "side", "rps", "of_noop", "p50_us", "p99_us", "front_cpu_us",
                 "worker_cpu_us", "failed"),
        plot={"kind": "lines", "x": "connections", "y": "rps", "series": ["engine", "protocol", "side"], "logx": True,
              "xlabel": "connections", "ylabel": "requests per second"},
    )  # fmt: skip
    body = targets.wrapped("hello")
    for engine in targets.engines():
        with contextlib.ExitStack() as stack:
            sides = sides_of(engine, stack, body)
            for connections in QUICK_CONNECTIONS if given.quick else CONNECTIONS:
                runs = compare(record, engine, "http/1.1", connections, sides, given, body)
                if connections in (16, 64):
                    got = ratio([run.rps for run in runs["sandboxd"]], [run.rps for run in runs["noop"]])
                    what = f"{engine}, {connections} connections: part of the no-op's requests/s"
                    record.bars.append(Bar(what=what, want=BARS[engine], got=got, at_least=True))
                if connections == 1:
                    pairs = zip(runs["sandboxd"], runs["noop"], strict=True)
                    added = statistics.median(ours.p50_us - theirs.p50_us for ours, theirs in pairs)
                    what = f"{engine}, one connection: added median latency"
                    record.bars.append(Bar(what=what, want=ADDED_US, got=round(added, 1), unit="us"))
            if engine == "hypercorn":
                own = {name: target for name, target in sides.items() if name in ("sandboxd", "noop")}
                for connections in (1, 4) if given.quick else (1, 4, 16):
                    compare(record, engine, "h2", connections, own, given, body)
    record.notes.append(f"HTTP/2 has {STREAMS} streams in flight on each connection")
    if load.WRK is None:
        record.notes.append(f"wrk is not installed: HTTP/1.1 was loaded by {load.generator_name()}")
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())

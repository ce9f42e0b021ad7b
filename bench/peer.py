"""How do sandboxd and a real daprd compare, side by side on one machine?

Both serve the same component files. Rounds alternate; a ratio is the median of the rounds' ratios. The rows are what
callers of Dapr's binding do: small guests alone, small guests beside loaded interpreters (daprd collects garbage the
more rarely the more its heap holds), failing guests, guests with much memory, guests that call out, interpreters, and
tails at equal rates. Needs a daprd (`make daprd`, or DAPRD); without one it says so and measures nothing.

    python -m bench.peer [--quick] [--rounds N] [--seconds S] [--rows args,trap,...] [--json FILE]
"""

import contextlib
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import load, peers, stalls, targets
from bench.load import Run
from bench.measure import GUESTS, Bar, Options, Record, alternate, end, median_of, options, python_module, ratio
from bench.targets import Target
from tests import guests
from tests.dapr import daprd as builds
from tests.host.legacy_guests import go_fetch

WRITES = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") PAGES)
  (data (i32.const 0) "\\08\\00\\00\\00\\02\\00\\00\\00ok")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    THEN))
"""
"""A guest that writes two bytes, and then ends or traps. The committed C guests have 16 MiB of memory each, for their
stacks, which alone takes daprd milliseconds."""
CONTRIB = "github.com/dapr/components-contrib@v1.18.3"
"""The Go module of Dapr's bindings, and in it the guest of its own tests and benchmarks."""
DAPRS_ARGS = Path("common", "wasm", "testdata", "args", "main.wasm")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    `binding` is asked with `body` on so many connections at once; `bars` are the least ratios, by connections.
    """

    name: str
    """By which `--rows` asks for it."""
    what: str
    binding: str
    body: bytes
    bars: Mapping[int, float]
    fails: bool = False
    """Its answers are errors, of both."""
    seconds: float = 0.0
    """The least that a round lasts."""


ROWS: Final = ("args", "trap", "memory", "tails", "args-beside", "trap-beside", "cpython", "ruby", "fetch")
"""What `--rows` may name."""
ARGS: Final = targets.wrapped("", args="a,b")


def small() -> list[Row]:
    """Small guests are all that is loaded."""
    return [
        Row(name="args", what="args, small guests alone", binding="args", body=ARGS, bars={1: 1.25, 16: 1.8, 64: 1.8}),
        Row(
            name="trap",
            what="a guest that traps, the same",
            binding="trap",
            body=targets.wrapped(""),
            bars={16: 1.2},
            fails=True,
        ),
        Row(
            name="memory",
            what="16 MiB of memory, the same",
            binding="memory",
            body=targets.wrapped(""),
            bars={16: 12.0},
        ),
    ]


def six() -> list[Row]:
    """Six bindings are loaded, two of them interpreters."""
    return [
        Row(
            name="args-beside",
            what="args, beside interpreters",
            binding="args",
            body=ARGS,
            bars={1: 1.15, 16: 1.25, 64: 1.25},
        ),
        Row(
            name="trap-beside",
            what="a guest that traps, beside them",
            binding="trap",
            body=targets.wrapped(""),
            bars={16: 1.2},
            fails=True,
        ),
    ]


def alone(origin: str) -> list[tuple[Row, Path]]:
    """Guests that are loaded alone, and their files."""
    script = "-I,-c,import sys; print(sys.stdin.read())"
    print_line = '-ne,print "Hello "; print'
    return [
        (
            Row(
                name="cpython",
                what="CPython 3.12, cold",
                binding="cpython",
                body=targets.wrapped("x", args=script),
                bars={1: 3.5, 4: 3.5},
                seconds=6,
            ),
            guests.cpython312(),
        ),
        (
            Row(
                name="ruby",
                what="Ruby 3.2, cold",
                binding="ruby",
                body=targets.wrapped("salaboy", args=print_line),
                bars={1: 3.5, 4: 3.5},
                seconds=6,
            ),
            guests.ruby(),
        ),
        (
            Row(
                name="fetch",
                what="a Go guest that calls out",
                binding="fetch",
                body=targets.wrapped("", args=origin),
                bars={1: 2.5, 8: 2.5},
            ),
            go_fetch(),
        ),
    ]


def daprs_args() -> Path:
    """Return Dapr's own guest `args`, which its benchmarks run, from its Go module."""
    command = ["go", "mod", "download", "-json", CONTRIB]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    return Path(json.loads(done.stdout)["Dir"]) / DAPRS_ARGS


def modules(folder: Path) -> dict[str, Path]:
    """Return the guests of the six bindings."""
    import wasmtime

    files = {"memory": (256, ""), "trap": (1, "unreachable")}
    for name, (pages, then) in files.items():
        text = WRITES.replace("PAGES", str(pages)).replace("THEN", then)
        (folder / f"{name}.wasm").write_bytes(wasmtime.wat2wasm(text))
    return {
        "args": daprs_args(),
        "tiny": GUESTS / "tiny.wasm",
        **{name: folder / f"{name}.wasm" for name in files},
        "cpython": guests.cpython312(),
        "ruby": guests.ruby(),
    }


@contextlib.contextmanager
def both(files: Mapping[str, Path]) -> Iterator[dict[str, Target]]:
    """Both servers with these guests."""
    with targets.sandboxd(files) as ours, peers.daprd(files) as theirs:
        yield {"sandboxd": ours, "daprd": theirs.target()}


def at(target: Target, binding: str) -> Target:
    """Return another binding of the same server."""
    base = target.url.rpartition("/")[0]
    return Target(name=target.name, url=f"{base}/{binding}", front=target.front)


def compare(record: Record, rows: list[Row], sides: Mapping[str, Target], given: Options) -> None:
    """Every row at every number of connections."""
    for row in rows:
        if row.name not in given.rows:
            continue
        here = {name: at(target, row.binding) for name, target in sides.items()}
        for target in here.values():
            load.warm(target, row.body, connections=1)
        for connections, bar in row.bars.items():
            rounds = {
                name: functools.partial(measure, target, row, connections, given) for name, target in here.items()
            }
            add(record, row, connections, bar, alternate(rounds, given.rounds))


def measure(target: Target, row: Row, connections: int, given: Options) -> Run:
    """One round of one side."""
    seconds = max(given.seconds, row.seconds)
    return load.closed_loop(target, row.body, connections=connections, seconds=seconds, threads=1)


def compare_alone(record: Record, row: Row, file: Path, given: Options) -> None:
    """daprd is started anew for each round: the guests of callers who have gone go on, and take a core for seconds, or
    its process ends when a caller hangs up on a guest that calls out. The load generator does so after each round."""
    files = {row.binding: file}

    def fresh(connections: int) -> Run:
        with peers.daprd(files) as theirs:
            return measure(theirs.target(), row, connections, given)

    with targets.sandboxd(files, metadata={"allowedOutboundHosts": "http://127.0.0.1:*"}) as ours:
        load.warm(ours, row.body, connections=1)
        for connections, bar in row.bars.items():
            rounds = {
                "sandboxd": functools.partial(measure, ours, row, connections, given),
                "daprd": functools.partial(fresh, connections),
            }
            add(record, row, connections, bar, alternate(rounds, given.rounds))


def add(record: Record, row: Row, connections: int, bar: float, runs: Mapping[str, list[Run]]) -> None:
    """One line of the table, and its bar."""
    ours, theirs = runs["sandboxd"], runs["daprd"]
    got = ratio([run.rps for run in ours], [run.rps for run in theirs])
    wrong = [run for found in runs.values() for run in found if bool(run.failed) != row.fails]
    if wrong:
        record.notes.append(
            f"{row.what}, {connections}: {sum(run.failed for run in wrong)} answers were not as expected"
        )
    record.add(
        what=row.what,
        connections=connections,
        **{"sandboxd/s": rounded(median_of(ours, "rps")), "daprd/s": rounded(median_of(theirs, "rps"))},
        ratio=got,
        **{
            "p99 ms": round(median_of(ours, "p99_us") / 1000, 2),
            "daprd p99 ms": round(median_of(theirs, "p99_us") / 1000, 2),
            "front us": rounded(median_of(ours, "front_cpu_us")),
            "workers us": rounded(median_of(ours, "worker_cpu_us")),
            "daprd us": rounded(median_of(theirs, "front_cpu_us")),
        },
    )
    what = f"{row.what}, {connections} connections: of daprd's requests/s"
    record.bars.append(Bar(what=what, want=bar, got=got, unit="x", at_least=True))


def rounded(figure: float) -> float | int:
    """Return a figure with as many digits as it is good for."""
    return round(figure) if figure >= 100 else round(figure, 1)


def tails(record: Record, sides: Mapping[str, Target], given: Options) -> None:
    """Open loop at 20 and 50 % of what the slower of both can do."""
    if "tails" not in given.rows:
        return
    body = targets.wrapped("", args="a,b")
    most = {
        name: load.saturate(target, body, connections=16, seconds=given.seconds).rps for name, target in sides.items()
    }
    for part in (0.2, 0.5):
        rate = min(most.values()) * part
        runs = alternate(
            {
                name: functools.partial(load.open_loop, target, body, connections=64, seconds=given.seconds, rate=rate)
                for name, target in sides.items()
            },
            given.rounds,
        )
        got = ratio([run.p99_us for run in runs["sandboxd"]], [run.p99_us for run in runs["daprd"]])
        for name, found in runs.items():
            figures = ", ".join(
                f"{key} {median_of(found, f'{key}_us') / 1000:.2f} ms" for key in ("p50", "p99", "p999")
            )
            record.notes.append(f"args at {rate:.0f} requests/s ({part:.0%}), open loop, {name}: {figures}")
        record.bars.append(Bar(what=f"p99 at {part:.0%} load, of daprd's at the same rate", want=0.5, got=got))


@contextlib.contextmanager
def origin() -> Iterator[str]:
    """The address of an origin that answers at once."""
    process = subprocess.Popen(
        python_module("bench.origin", "0"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def main() -> int:
    """Measure and print."""
    given = options(__doc__, rows=ROWS)
    if builds.found() is None:
        print("there is no daprd: run `make daprd`, or name one in DAPRD", file=sys.stderr)
        return 0
    record = Record(
        question="peer",
        title=f"sandboxd beside daprd {builds.VERSION}: requests per second",
        columns=("what", "connections", "sandboxd/s", "daprd/s", "ratio", "p99 ms", "daprd p99 ms", "front us",
                 "workers us", "daprd us"),
        plot={"kind": "bars", "sideways": True, "logx": True, "x": "label", "y": ["sandboxd", "daprd"],
              "xlabel": "requests per second"},
    )  # fmt: skip
    record.notes.append(stalls.note(stalls.measure()))
    with tempfile.TemporaryDirectory() as folder:
        files = modules(Path(folder))
        if given.rows & {"args", "trap", "memory", "tails"}:
            with both({name: files[name] for name in ("args", "tiny", "trap", "memory")}) as sides:
                compare(record, small(), sides, given)
                tails(record, sides, given)
        if given.rows & {"args-beside", "trap-beside"}:
            with both(files) as sides:
                compare(record, six(), sides, given)
    with origin() as url:
        for row, file in alone(url):
            if row.name in given.rows:
                compare_alone(record, row, file, given)
    for line in record.rows:
        label = f"{line['what']}, {line['connections']}"
        line |= {"label": label, "sandboxd": line["sandboxd/s"], "daprd": line["daprd/s"]}
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())

"""What a failing request costs, beside a good one of the same guest: requests per second and CPU time.

Guests of a few instructions that return, exit with 1, exit with 1 after a line to stderr, and trap, in rounds that
alternate, at 16 connections.

    python -m bench.failing [--rounds 5] [--seconds 3] [--quick]

Bar: a guest that exits with 1 gets at least 0.8 of the requests of one that returns.
"""

import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import wasmtime

from bench import load
from bench.measure import Bar, Record, options
from bench.targets import sandboxd

CONNECTIONS = 16
LEAST = 0.8
BODY = b'{"operation":"execute"}'
_IMPORTS = """(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"""
GUESTS = {
    "returns": "(nop)",
    "exits with 1": "(call $exit (i32.const 1))",
    "writes to stderr, exits with 1": """(i32.store (i32.const 0) (i32.const 16))
      (i32.store (i32.const 4) (i32.const 12))
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8))) (call $exit (i32.const 1))""",
    "traps": "(unreachable)",
}


def module(body: str) -> bytes:
    """Return a guest that does this."""
    return bytes(
        wasmtime.wat2wasm(
            f"""(module {_IMPORTS} (memory (export "memory") 1) (data (i32.const 16) "no argument\\0a")
            (func (export "_start") {body}))"""
        )
    )


def main() -> int:
    """Measure, print, judge."""
    given = options(__doc__)
    record = Record(
        question="failing",
        title="What a failing request costs",
        columns=("guest", "rps", "of_good", "p99_us", "front_cpu_us", "worker_cpu_us"),
        notes=[f"{CONNECTIONS} connections, 2 workers, uvicorn, level info"],
    )
    with tempfile.TemporaryDirectory() as folder:
        files = {f"g{number}": Path(folder) / f"g{number}.wasm" for number in range(len(GUESTS))}
        for file, body in zip(files.values(), GUESTS.values(), strict=True):
            file.write_bytes(module(body))
        runs: dict[str, list[load.Run]] = {name: [] for name in files}
        with sandboxd(files, "--workers", "2", "--engine", "auto") as target:
            base = target.url.rpartition("/")[0]
            for turn in range(given.rounds):
                for name in list(files)[:: 1 if turn % 2 == 0 else -1]:
                    at = replace(target, url=f"{base}/{name}")
                    runs[name].append(load.closed_loop(at, BODY, connections=CONNECTIONS, seconds=given.seconds))
    good = [run.rps for run in runs["g0"]]
    for name, label in zip(files, GUESTS, strict=True):
        ratio = statistics.median(run.rps / best for run, best in zip(runs[name], good, strict=True))
        middle = {
            figure: round(statistics.median(getattr(run, figure) for run in runs[name]), 1)
            for figure in ("rps", "p99_us", "front_cpu_us", "worker_cpu_us")
        }
        record.add(guest=label, of_good=round(ratio, 3), **middle)
        if name == "g1":
            record.bars.append(Bar(what="of a good guest's requests", want=LEAST, got=round(ratio, 3), at_least=True))
    record.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

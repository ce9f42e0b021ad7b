"""What does one invocation cost inside a worker, against stock wasmtime-py doing the same, in one process?

Both sides: fresh store with a memory limit and an epoch deadline, instance from a pre-linked module, the same artifact
settings, stdin from bytes, stdout collected, store closed. Rounds of both alternate; the table has the median of the
rounds' means, and ratios within a round.

    python -m bench.invoke [GUEST.wasm ...] [--quick] [--rounds 5] [--seconds 0.4] [--json FILE]
"""

import argparse
import ctypes
import gc
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import wasmtime
from wasmtime import _ffi as ffi

from bench.measure import GUESTS, Bar, Record, ratio
from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.wire.messages import Call, GuestSpec, Invoke
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime
from tests.guests import cpython312, go_guest

HOUR_NS = 3600 * 10**9
CHEAPER = 5.0
PYTHON_SHARE = 1.10


class Case(NamedTuple):
    """A guest and its input."""

    guest: Path
    args: tuple[bytes, ...]
    stdin: bytes


def ours(artifact: Path, args: tuple[bytes, ...], stdin: bytes) -> Callable[[], bytes]:
    """sandboxd's worker code."""
    built = engine.build(EngineSettings())
    spec = GuestSpec(binding="bench", kind="module", artifact=str(artifact), argv0=b"guest")
    runtime = Runtime(built, [load.load(built, spec)], OutboundSettings()).start()

    def once() -> bytes:
        invoke = Invoke(id=1, guest=0, call=Call(deadline_ns=time.monotonic_ns() + HOUR_NS, args=args, stdin=stdin))
        result = runtime.run(invoke)
        if result.outcome != "completed":
            raise SystemExit(f"the guest ended with {result.outcome}: {result.detail}")
        return result.stdout

    return once


def stock(artifact: Path, args: tuple[bytes, ...], stdin: bytes, *, pooling: bool) -> Callable[[], bytes]:
    """wasmtime-py's own way. `pooling` gives it our engine; otherwise it has the allocator it comes with."""
    built = engine.build(EngineSettings(), compiling=not pooling)
    linker = wasmtime.Linker(built)
    linker.define_wasi()
    pre = linker.instantiate_pre(wasmtime.Module.deserialize_file(built, str(artifact)))
    argv = ["guest", *(argument.decode() for argument in args)]

    def once() -> bytes:
        config = wasmtime.WasiConfig()
        config.argv = argv
        vector = ffi.wasm_byte_vec_t()
        # The stock API takes stdin from a file only; bytes are what the C API has for it.
        data = (ctypes.c_ubyte * len(stdin)).from_buffer_copy(stdin)
        ffi.wasm_byte_vec_new(ctypes.byref(vector), len(stdin), ctypes.cast(data, ctypes.POINTER(ctypes.c_uint8)))
        ffi.wasi_config_set_stdin_bytes(config.ptr(), ctypes.byref(vector))
        out: list[bytes] = []
        config.stdout_custom = out.append
        store = wasmtime.Store(built)
        store.set_epoch_deadline(1)
        store.set_limits(memory_size=256 << 20)
        store.set_wasi(config)
        instance: Any = pre.instantiate(store)
        try:
            instance.exports(store)["_start"](store)
        except wasmtime.ExitTrap as exited:
            if exited.code:
                raise
        store.close()
        return b"".join(bytes(piece) for piece in out)

    return once


def mean_us(once: Callable[[], bytes], seconds: float) -> float:
    """Mean time of a round that lasts about `seconds`."""
    count = 0
    gc.collect()
    began = time.perf_counter()
    burst = 1
    while True:
        for _ in range(burst):
            once()
        count += burst
        burst = min(20, 2 * burst)
        if (took := time.perf_counter() - began) >= seconds:
            return took / count * 1e6


def compare(guest: Path, args: tuple[bytes, ...], stdin: bytes, rounds: int, seconds: float) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "guest.cwasm"
        compiler = engine.build(EngineSettings(), compiling=True)
        artifact.write_bytes(wasmtime.Module(compiler, guest.read_bytes()).serialize())
        sides = {
            "ours": ours(artifact, args, stdin),
            "stock": stock(artifact, args, stdin, pooling=False),
            "stock_pooling": stock(artifact, args, stdin, pooling=True),
        }
        outputs = {name: once() for name, once in sides.items()}
        if len(set(outputs.values())) != 1:
            raise SystemExit(f"{guest.name}: the sides disagree: { {k: v[:60] for k, v in outputs.items()} }")
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, once in sides.items():
                times[name].append(mean_us(once, seconds))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "guest": guest.name,
        "wasm_bytes": guest.stat().st_size,
        "stdin_bytes": len(stdin),
        "stdout_bytes": len(outputs["ours"]),
        **{f"{name}_us": round(value, 2) for name, value in medians.items()},
        "label": f"{guest.stem[:12]} {len(stdin)}",
        "ratio": ratio(times["stock"], times["ours"]),
        "ratio_pooling": ratio(times["stock_pooling"], times["ours"]),
        "rounds_us": times,
    }


def cases(guests_given: list[Path], quick: bool) -> list[Case]:
    """Return the guests that are run."""
    if guests_given:
        return [Case(guest, (), b"hello") for guest in guests_given]
    sizes = (0, 1024, 1 << 20) if quick else (0, 16, 1024, 16384, 65536, 1 << 18, 1 << 20)
    found = [
        Case(GUESTS / "tiny.wasm", (), b"hello"),
        Case(GUESTS / "args.wasm", (b"one", b"two"), b""),
        *(Case(GUESTS / "upper.wasm", (), b"x" * size) for size in sizes),
    ]
    if shutil.which("go"):
        found.append(Case(go_guest("upper"), (), b"hello"))
    line = b"import sys; print(sys.stdin.readline().upper())"
    found.append(Case(cpython312(), (b"-I", b"-c", line), b"hello\n"))
    return found


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("guests", nargs="*", type=Path, help="WASI modules; default: C, Go and CPython guests")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one round of one side")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rounds, seconds = given.rounds or (2 if given.quick else 5), given.seconds or (0.1 if given.quick else 0.4)
    record = Record(
        question="invoke",
        title="One invocation inside a worker, against stock wasmtime-py",
        columns=("guest", "wasm_bytes", "stdin_bytes", "ours_us", "stock_us", "stock_pooling_us", "ratio",
                 "ratio_pooling"),
        plot={"kind": "columns", "x": "label", "y": ["ours_us", "stock_us", "stock_pooling_us"], "logy": True,
              "ylabel": "microseconds"},
    )  # fmt: skip
    for case in cases(given.guests, given.quick):
        row = record.add(**compare(case.guest, case.args, case.stdin, rounds, seconds))
        if row["guest"] == "tiny.wasm":
            what = "guest of 627 bytes in the worker: times cheaper than stock wasmtime-py"
            record.bars.append(Bar(what=what, want=CHEAPER, got=row["ratio"], unit="x", at_least=True))
        if case.guest.stat().st_size > 20 << 20:
            got = max(1 / row["ratio"], 1 / row["ratio_pooling"])
            what = "CPython 3.12, one line reading stdin: of its time in bare wasmtime"
            record.bars.append(Bar(what=what, want=PYTHON_SHARE, got=round(got, 3), unit="x"))
    record.notes.append("stock: the allocator it comes with; stock_pooling: stock wasmtime-py on our engine")
    record.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())

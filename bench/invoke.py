"""What one invocation costs inside a worker, against stock wasmtime-py doing the same, in one process.

Both sides: fresh store with a memory limit and an epoch deadline, instance from a pre-linked module, the same artifact
settings, stdin from bytes, stdout collected, store closed. Rounds of both alternate; the table has the median of the
rounds' means.

    python bench/invoke.py [GUEST.wasm ...] [--rounds 5] [--seconds 0.4] [--json FILE]
"""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import _ffi as ffi

from sandboxd.limits import EngineSettings
from sandboxd.wire.messages import GuestSpec, Invoke, OutboundSettings
from sandboxd.worker import engine, guests
from sandboxd.worker.runtime import Runtime

GUESTS = Path(__file__).parent.parent / "tests" / "guests" / "bin"
HOUR_NS = 3600 * 10**9


def ours(artifact: Path, args: tuple[bytes, ...], stdin: bytes) -> Callable[[], bytes]:
    """sandboxd's worker code."""
    built = engine.build(EngineSettings())
    spec = GuestSpec(binding="bench", kind="module", artifact=str(artifact), argv0=b"guest")
    runtime = Runtime(built, [guests.load(built, spec)], OutboundSettings())

    def once() -> bytes:
        invoke = Invoke(id=1, guest=0, deadline_ns=time.monotonic_ns() + HOUR_NS, args=args, stdin=stdin)
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
    while True:
        for _ in range(20):
            once()
        count += 20
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
        "ratio": round(medians["stock"] / medians["ours"], 2),
        "ratio_pooling": round(medians["stock_pooling"] / medians["ours"], 2),
        "rounds_us": times,
    }


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("guests", nargs="*", type=Path, help="WASI modules; default: the committed C guests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of one round of one side")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cases: list[tuple[Path, tuple[bytes, ...], bytes]] = [(guest, (), b"hello") for guest in options.guests] or [
        (GUESTS / "tiny.wasm", (), b"hello"),
        (GUESTS / "args.wasm", (b"one", b"two"), b""),
        *((GUESTS / "upper.wasm", (), b"x" * size) for size in (0, 16, 1024, 65536, 1 << 20)),
    ]
    rows = []
    print(
        f"{'guest':<14}{'wasm':>9}{'stdin':>9}{'ours us':>10}{'stock us':>10}{'pooled us':>11}{'ratio':>8}{'pooled':>8}"
    )
    for guest, args, stdin in cases:
        row = compare(guest, args, stdin, options.rounds, options.seconds)
        rows.append(row)
        print(
            f"{row['guest']:<14}{row['wasm_bytes']:>9}{row['stdin_bytes']:>9}{row['ours_us']:>10}{row['stock_us']:>10}"
            f"{row['stock_pooling_us']:>11}{row['ratio']:>8}{row['ratio_pooling']:>8}",
            flush=True,
        )
    if options.json:
        record = {
            "question": "in-worker cost of one invocation against stock wasmtime-py",
            "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
            "wasmtime": importlib.metadata.version("wasmtime"),
            "rows": rows,
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

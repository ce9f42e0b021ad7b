"""Files: what a mount costs an invocation, and how fast a guest reads, with wasmtime's command line beside it.

    python -m bench.files [--quick] [--json FILE]

It needs zig (`pip install ziglang`) to build its guest. wasmtime is fetched from PyPI.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import wasmtime

from bench.measure import Bar, Record, end, options
from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.wire.messages import Call, GuestKind, GuestMount, GuestSpec, Invoke, Result
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime
from tests.host.wasmtime_cli import wasmtime as command_line

FILES = 10_000
FILE_BYTES = 1024
LARGE_BYTES = 100 * 1024 * 1024
_SETTINGS = EngineSettings()
MOUNT_BAR_US = 60.0
RATE_BAR = 0.3
JOBS = {
    "10,000 files of 1 KiB whose names are known, read": ("names", "/data/small"),
    "10,000 files of 1 KiB in a folder, listed and read": ("list", "/data/small"),
    "one file of 100 MiB, read in pieces of 64 KiB": ("one", "/data/large"),
}


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


@dataclass(frozen=True)
class Ready:
    """The guest, compiled by both, and the folder that it reads."""

    folder: Path
    ours: Path
    theirs: Path


def prepare(folder: Path) -> Ready:
    """Build the guest and write the files."""
    wasm, ours, theirs = folder / "files.wasm", folder / "files.cwasm", folder / "theirs.cwasm"
    source = Path(__file__).with_name("files.c")
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s"]
    subprocess.run([*zig, "-o", str(wasm), str(source)], check=True, timeout=300)
    ours.write_bytes(wasmtime.Module(engine.build(_SETTINGS, compiling=True), wasm.read_bytes()).serialize())
    subprocess.run([command_line(), "compile", "-o", str(theirs), str(wasm)], check=True, timeout=300)
    (folder / "small").mkdir()
    for number in range(FILES):
        (folder / "small" / f"f{number:05}").write_bytes(os.urandom(FILE_BYTES))
    (folder / "large").write_bytes(os.urandom(LARGE_BYTES))
    return Ready(folder, ours, theirs)


def mount_costs(record: Record, ready: Ready, runs: int) -> None:
    """The time of a guest that does nothing, with a mount and without, in turns."""
    times: dict[str, list[int]] = {"without": [], "with": []}
    workers = {"without": runtime(ready.ours, None), "with": runtime(ready.ours, ready.folder)}
    for _ in range(runs):
        for name, worker in workers.items():
            times[name].append(run(worker)[0])
    for worker in workers.values():
        worker.close()
    medians = {name: statistics.median(taken) / 1000 for name, taken in times.items()}
    for name, median in medians.items():
        record.add(what=f"a guest that does nothing, {name} a read-only mount", sandboxd=f"{median:.1f} us")
    added = round(medians["with"] - medians["without"], 1)
    record.bars.append(Bar(what="a read-only mount, added to an invocation", want=MOUNT_BAR_US, got=added, unit="us"))


def reading(record: Record, ready: Ready, tries: int) -> None:
    """How fast it reads, of what wasmtime's command line does."""
    mounted = runtime(ready.ours, ready.folder)
    start = min(reference(ready.theirs, ready.folder, "nothing")[0] for _ in range(tries))
    for what, args in JOBS.items():
        # In turns, so that a moment in which the machine does something else spares neither.
        pairs = [(run(mounted, *args)[0], reference(ready.theirs, ready.folder, *args)[0]) for _ in range(tries)]
        ours, other = min(one for one, _ in pairs), min(two for _, two in pairs) - start
        assert run(mounted, *args)[1].stdout == reference(ready.theirs, ready.folder, *args)[1]
        rate = round(other / ours, 2)
        record.add(what=what, sandboxd=f"{ours / 1e6:.1f} ms", wasmtime=f"{other / 1e6:.1f} ms", rate=rate)
        record.bars.append(
            Bar(what=f"{what}: rate, of wasmtime's command line", want=RATE_BAR, got=rate, unit="x", at_least=True)
        )
    mounted.close()


def main() -> int:
    """Print every figure."""
    given = options(__doc__)
    record = Record(question="files", title="Files", columns=("what", "sandboxd", "wasmtime", "rate"))
    record.notes.append(
        "wasmtime is its command line, whose start is taken off; rate: its time over sandboxd's, least of 9"
    )
    with tempfile.TemporaryDirectory() as name:
        ready = prepare(Path(name))
        mount_costs(record, ready, 200 if given.quick else 2000)
        reading(record, ready, 2 if given.quick else 9)
    return end(record, given)


if __name__ == "__main__":
    sys.exit(main())

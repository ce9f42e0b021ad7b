"""Counts of work per request that do not depend on the machine: what `tests/process/test_work_counts.py` bounds.

    python -m bench.counts

prints them: calls into wasmtime, host calls, Python calls and memory that stays, per invocation in a worker and per
request in the front; and system calls of both, where strace may attach.
"""

import asyncio
import contextlib
import gc
import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

import wasmtime

from bench.frontpath import FAILED, GOOD, FrontPath
from bench.measure import GUESTS
from hostfuncs.abi import capi, define
from sandboxd.front.answering import sampling
from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.log import budget
from sandboxd.wire.messages import Call, GuestSpec, Invoke, Result
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime

RUNS = 200
ROUNDS = 3
NOTICED_S = 60.0
_RAW_CALLS = ("call", "call_wide", "call_without_result")


class Calls:
    """Counts Python's calls, of functions in Python and in C, while it is entered.

    The collector is off: it would call the finalizers of what others in the process have left.
    """

    def __init__(self) -> None:
        self.python = 0
        self.native = 0
        self.host = 0

    def __enter__(self) -> "Calls":
        gc.collect()
        gc.disable()
        sys.setprofile(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _event(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            self.python += 1
            code = frame.f_code
            if code.co_name in _RAW_CALLS and code.co_filename == define.__code__.co_filename:
                self.host += 1
        elif event == "c_call":
            self.native += 1


@contextlib.contextmanager
def wasmtime_calls() -> Iterator[Counter[str]]:
    """Calls of `hostfuncs.abi.capi`'s functions by name, while it is entered."""
    counted: Counter[str] = Counter()
    originals = {
        name: function
        for name, function in vars(capi).items()
        if getattr(function, "argtypes", None) is not None and hasattr(function, "restype")
    }

    def counting(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            counted[name] += 1
            return function(*arguments)

        return call

    try:
        for name, function in originals.items():
            setattr(capi, name, counting(name, function))
        yield counted
    finally:
        for name, function in originals.items():
            setattr(capi, name, function)


def retained_blocks(once: Any) -> float:
    """Memory blocks of Python that each run leaves behind, with the collector off."""
    gc.collect()
    gc.disable()
    try:
        once()
        before = sys.getallocatedblocks()
        for _ in range(RUNS):
            once()
        return (sys.getallocatedblocks() - before) / RUNS
    finally:
        gc.enable()


TRAPS = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1) (func (export "_start") unreachable))"""
EXITS = TRAPS.replace("unreachable", "(call $exit (i32.const 1))")
"""Guests that fail."""


def worker_counts(
    guest: str | Path = GUESTS / "tiny.wasm",
    stdin: bytes = b"hello",
    *,
    native_functions: bool = True,
    outcome: str = "completed",
) -> dict[str, float]:
    """Per invocation in a worker.

    Parameters:
        guest: its file, or its text.
        stdin: its input.
        native_functions: with the host functions in C, where those were built. `host calls` and `calls into wasmtime`
            are those of Python.
        outcome: of each invocation.
    """
    settings = EngineSettings(native_functions=native_functions)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "guest.cwasm"
        compiler = engine.build(EngineSettings(), compiling=True)
        wasm = guest.read_bytes() if isinstance(guest, Path) else wasmtime.wat2wasm(guest)
        artifact.write_bytes(wasmtime.Module(compiler, wasm).serialize())
        built = engine.build(EngineSettings())
        spec = GuestSpec(binding="b", kind="module", artifact=str(artifact), argv0=b"guest")
        loaded = load.load(built, spec, settings)
        runtime = Runtime(built, [loaded], OutboundSettings()).start()
    frame = Invoke(id=1, guest=0, call=Call(deadline_ns=time.monotonic_ns() + 3600 * 10**9, stdin=stdin))

    def once() -> None:
        assert runtime.run(frame).outcome == outcome

    try:
        for _ in range(20):
            once()
        # Until the deadline thread has noticed how far the deadline is, each run wakes it up.
        end = time.monotonic() + NOTICED_S
        while runtime._deadlines._wakes_at_ns > frame.call.deadline_ns:
            assert time.monotonic() < end, runtime
            once()
        with Calls() as calls:
            once()
        with wasmtime_calls() as native:
            once()
        return {
            "host calls": calls.host,
            "calls into wasmtime": native.total(),
            "Python calls": calls.python,
            "native calls": calls.native,
            "retained blocks": retained_blocks(once),
        }
    finally:
        runtime.close()


def front_counts(result: Result = GOOD, *, repeats: bool = True) -> dict[str, float]:
    """Per request in the front, HTTP to frame and back.

    Clocks stand still meanwhile. A slow machine would call more timers and write more log lines for as many requests.
    Parameters as of `FrontPath`.
    """

    async def main() -> dict[str, float]:
        path = FrontPath(result=result, repeats=repeats)
        loop = asyncio.get_running_loop()
        now = loop.time()
        with mock.patch.object(loop, "time", lambda: now):  # noqa: PT008 - the calls of a Mock would count
            return await counted(path)

    async def counted(path: FrontPath) -> dict[str, float]:
        await path.run(50)
        rounds = []
        for _ in range(ROUNDS):
            worker, client = path.worker_transport.written, path.client_transport.written
            with Calls() as calls:
                await path.run(RUNS)
            writes = path.worker_transport.written - worker, path.client_transport.written - client
            rounds.append((calls.python, calls.native, *writes))
        # What a request leaves behind shows in every round.
        python, native, to_worker, to_caller = min(rounds)
        retained = min([await retained_by_requests(path) for _ in range(ROUNDS)])
        path.close()
        return {
            "Python calls": python / RUNS,
            "native calls": native / RUNS,
            "writes to the worker": to_worker / RUNS,
            "writes to the caller": to_caller / RUNS,
            "retained blocks": retained,
        }

    still = SimpleNamespace(monotonic=lambda: 1.0)
    with _logging(), mock.patch.object(sampling, "time", still), mock.patch.object(budget, "time", still):
        return asyncio.run(main())


async def retained_by_requests(path: FrontPath) -> float:
    """Return how many blocks of memory a request leaves behind, without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        await path.run(RUNS)
        return (sys.getallocatedblocks() - before) / RUNS
    finally:
        gc.enable()


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """Log as a server does, to nowhere."""
    logger = logging.getLogger("sandboxd")
    former, handler = (logger.level, logger.propagate), logging.NullHandler()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former[0])
        logger.propagate = former[1]


class NotPermittedError(Exception):
    """strace is not there, or may not attach."""


@contextlib.contextmanager
def system_calls(pid: int) -> Iterator[Counter[str]]:
    """System calls of a process's main thread while it is entered; filled when it is left.

    Raises:
        NotPermittedError: they cannot be counted here.
    """
    program = shutil.which("strace")
    if program is None:
        raise NotPermittedError("strace is not installed")
    counted: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile("r") as output:
        process = subprocess.Popen(
            [program, "-c", "-p", str(pid), "-o", output.name], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            if "attached" not in line:
                raise NotPermittedError(line.strip() or "strace could not attach")
            yield counted
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(10)
            process.stderr.close()
        for row in output.read().splitlines():
            match = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", row)
            if match and match[2] != "total":
                counted[match[2]] += int(match[1])


def main() -> None:
    """Print."""
    for title, counts in (
        ("worker, per invocation", worker_counts()),
        ("worker, per invocation, host functions in Python", worker_counts(native_functions=False)),
        ("worker, per invocation of a guest that traps", worker_counts(TRAPS, outcome="trapped")),
        ("worker, per invocation of a guest that exits with 1", worker_counts(EXITS, outcome="exit_nonzero")),
        ("front, per request whose head is that of the one before", front_counts()),
        ("front, per request with another head", front_counts(repeats=False)),
        ("front, per failed request", front_counts(FAILED)),
    ):
        print(title)
        for name, value in counts.items():
            print(f"  {name:<24}{value:g}")


if __name__ == "__main__":
    main()

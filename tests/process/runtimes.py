"""Runs guests through the code of a worker, without the processes around it."""

import time
from functools import cache
from pathlib import Path
from typing import Any

import wasmtime

from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.wire.messages import Call, GuestSpec, Invoke, Result
from sandboxd.worker import engine, load
from sandboxd.worker.runtime import Runtime
from tests.host.wat import artifact_of

GUESTS = Path(__file__).parent.parent / "guests" / "bin"
WASI = "wasi_snapshot_preview1"
SECOND = 10**9


@cache
def worker_engine() -> wasmtime.Engine:
    """One for all tests, as it reserves tens of GiB of address space."""
    return engine.build(EngineSettings())


class Worker:
    """A runtime whose guests are loaded when first asked for.

    Parameters:
        folder: for artifacts.
        native_functions: host functions in C, where there is one.
    """

    def __init__(self, folder: Path, *, native_functions: bool = True) -> None:
        self.folder = folder
        self.settings = EngineSettings(native_functions=native_functions)
        self.engine = worker_engine()
        self.runtimes: list[Runtime] = []

    def load(self, wat: str, **options: Any) -> Runtime:
        """A runtime with one guest, from text or the name of a committed guest."""
        if "(" not in wat:
            compiler = engine.build(EngineSettings(), compiling=True)
            artifact = self.folder / f"{wat}.cwasm"
            artifact.write_bytes(wasmtime.Module(compiler, (GUESTS / f"{wat}.wasm").read_bytes()).serialize())
        else:
            artifact = artifact_of(wat, self.folder)
        spec = GuestSpec(**{"binding": "b", "kind": "module", "artifact": str(artifact), "argv0": b"guest"} | options)
        runtime = Runtime(self.engine, [load.load(self.engine, spec, self.settings)], OutboundSettings()).start()
        self.runtimes.append(runtime)
        return runtime

    def run(
        self, wat: str, *, stdin: bytes = b"", args: tuple[bytes, ...] = (), seconds: float = 20, **options: Any
    ) -> Result:
        """One invocation."""
        return invoke(self.load(wat, **options), stdin=stdin, args=args, seconds=seconds)


def invoke(runtime: Runtime, *, number: int = 1, seconds: float = 20, **options: Any) -> Result:
    deadline = time.monotonic_ns() + int(seconds * SECOND)
    return runtime.run(Invoke(id=number, guest=0, call=Call(deadline_ns=deadline, **options)))


def start(body: str, *, imports: str = "", memory: str = '(memory (export "memory") 1)') -> str:
    return f'(module {imports} {memory} (func (export "_start") {body}))'


EXIT = f'(import "{WASI}" "proc_exit" (func $exit (param i32)))'
WRITE = f'(import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'

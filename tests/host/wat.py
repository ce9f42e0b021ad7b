"""Running small guests written as text, for cases no compiler would produce."""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import wasmtime

from hostfuncs import wasip1
from hostfuncs.abi import GuestEnded, InvocationState
from hostfuncs.files import Files
from sandboxd.limits import EngineSettings
from sandboxd.worker import engine

HOUR_NS = 3600 * 10**9


@cache
def guest_engine() -> wasmtime.Engine:
    """Return an engine as workers have it, without the pool: stores live as long as the test that reads them."""
    return engine.build(EngineSettings(), compiling=True)


class Bench:
    """One guest whose functions can be called one by one, with its host functions linked.

    Parameters:
        wat: text of the module; `$NAME` imports are its own business.
        define: links further functions.
        new_files: opens the guest's files.
    """

    def __init__(
        self,
        wat: str,
        *,
        define: Callable[[wasmtime.Linker, InvocationState], None] | None = None,
        stdin: bytes = b"",
        args: tuple[bytes, ...] = (),
        env: tuple[bytes, ...] = (),
        stdout_limit: int = 1 << 20,
        stderr_limit: int = 1 << 10,
        strict: bool = False,
        deadline_ns: int = HOUR_NS,
        new_files: Callable[[], Files] | None = None,
    ) -> None:
        self.state = InvocationState()
        sources = wasip1.StrictSources if strict else wasip1.SystemSources
        self.program = wasip1.Program(
            self.state, stdout_limit=stdout_limit, stderr_limit=stderr_limit, sources=sources, new_files=new_files
        )
        linker = wasmtime.Linker(guest_engine())
        wasip1.link(linker, self.program)
        if define:
            define(linker, self.state)
        self.store = wasmtime.Store(guest_engine())
        self.store.set_epoch_deadline(1 << 40)
        self.program.begin(wasip1.Strings(args), wasip1.Strings(env), stdin)
        self.state.begin(time.monotonic_ns() + deadline_ns)
        self.instance = linker.instantiate(self.store, wasmtime.Module(guest_engine(), wasmtime.wat2wasm(wat)))
        self.memory = self.instance.exports(self.store).get("memory")

    def call(self, name: str, *arguments: int) -> int:
        """Call an export. A guest that was ended raises the reason."""
        function = self.instance.exports(self.store)[name]
        assert isinstance(function, wasmtime.Func)
        try:
            result = function(self.store, *arguments)
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            if self.state.failure is not None:
                raise AssertionError(self.state.failure) from None
            if isinstance(self.state.ended, GuestEnded):
                raise self.state.ended from None
            raise
        return result & 0xFFFFFFFF if isinstance(result, int) else 0

    def read(self, start: int, stop: int) -> bytes:
        """Guest memory."""
        assert isinstance(self.memory, wasmtime.Memory)
        return bytes(self.memory.read(self.store, start, stop))

    def write(self, at: int, data: bytes) -> None:
        """Into guest memory."""
        assert isinstance(self.memory, wasmtime.Memory)
        self.memory.write(self.store, data, at)

    @property
    def size(self) -> int:
        """Bytes of guest memory."""
        assert isinstance(self.memory, wasmtime.Memory)
        return self.memory.data_len(self.store)


LETTERS = {"i": "i32", "I": "i64"}


def passing(name: str, params: str, result: str, module: str = wasip1.MODULE, pages: int = 1) -> str:
    """A guest whose export NAME passes its parameters on to the import NAME."""
    types = " ".join(LETTERS[letter] for letter in params)
    gets = " ".join(f"(local.get {at})" for at in range(len(params)))
    results = f"(result {LETTERS[result]})" if result else ""
    return f"""(module
        (import "{module}" "{name}" (func $f (param {types}) {results}))
        (memory (export "memory") {pages})
        (func (export "{name}") (param {types}) {results} (call $f {gets}))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""


def wasi(name: str, **options: object) -> Bench:
    """A guest that exports one WASI function as it is."""
    function = wasip1.FUNCTIONS[name]
    return Bench(passing(name, function.params, function.result), **options)  # type: ignore[arg-type]


def artifact_of(wat: str, folder: Path) -> Path:
    """A compiled module in a file."""
    compiler = engine.build(EngineSettings(), compiling=True)
    path = folder / f"{abs(hash(wat))}.cwasm"
    path.write_bytes(wasmtime.Module(compiler, wasmtime.wat2wasm(wat)).serialize())
    return path

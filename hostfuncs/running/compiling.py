"""Read a guest, and compile it with the engine that all programs of a process share."""

from __future__ import annotations

import os
from functools import cache
from typing import Final

import wasmtime
from wasmtime import component as wc

from hostfuncs.limits import EngineSettings
from hostfuncs.running import engine as engines
from hostfuncs.running.compiled_cache import CompiledCache, Guest
from hostfuncs.running.errors import GuestError
from hostfuncs.running.values import Wasm

SETTINGS: Final = EngineSettings(trace_lines=True)
"""The settings of the shared engine."""

_first_pid = os.getpid()


@cache
def shared_engine(pid: int) -> wasmtime.Engine:
    """Return the engine that all programs of a process share.

    It does not use the pooling allocator, which would reserve address space for a fixed number of memories and refuse
    any further run.
    """
    # A fork does not copy the compiler's threads. A forked child would wait for them for ever.
    return engines.build(SETTINGS, parallel_compilation=pid == _first_pid, pooling=False)


def read(wasm: Wasm) -> bytes:
    """Read a guest, and translate it from the text format if necessary.

    Raises:
        TypeError: it is neither bytes nor a path.
        OSError: the file cannot be read.
        GuestError: it is neither a binary nor valid text.
    """
    if isinstance(wasm, bytes | bytearray | memoryview):
        data = bytes(wasm)
    elif isinstance(wasm, str | os.PathLike):
        with open(wasm, "rb") as file:
            data = file.read()
    else:
        raise TypeError(f"wasm is of type {type(wasm).__name__}; give the bytes of a .wasm file, or its path")
    if data.startswith(b"\0asm"):
        return data
    if not data.lstrip().startswith((b"(", b";;")):
        raise GuestError("the guest is neither a WebAssembly binary nor WebAssembly text")
    try:
        return bytes(wasmtime.wat2wasm(data))
    except (wasmtime.WasmtimeError, UnicodeDecodeError) as error:
        raise GuestError(f"the guest's text cannot be translated: {error}") from None


def compile_guest(engine: wasmtime.Engine, data: bytes, kept: CompiledCache | None = None) -> Guest:
    """Compile a core module or a component, or take it from a cache if one is given. Raises GuestError."""
    if kept is not None:
        return kept.get(engine, data, lambda: compile_guest(engine, data))
    try:
        # The layer field is 1 in a component and 0 in a core module (component-model, Binary.md).
        return wc.Component(engine, data) if data[6:8] == b"\x01\0" else wasmtime.Module(engine, data)
    except wasmtime.WasmtimeError as error:
        raise GuestError(f"the guest cannot be compiled: {error}") from None

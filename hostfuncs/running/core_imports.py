"""Checks and resolves the imports of a core module, and checks whether its memory and its limits allow a run."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import TYPE_CHECKING

import wasmtime

from hostfuncs import native, wasip1
from hostfuncs.abi import capi
from hostfuncs.imports import LEGACY_HTTP
from hostfuncs.limits import Limits
from hostfuncs.running.errors import GuestError

if TYPE_CHECKING:
    from hostfuncs.running.core_http import CoreHttp

PAGE_BYTES = 65536
START = "_start"
WIZER_INITIALIZE = "wizer.initialize"
WIZER_RESUME = "wizer.resume"
"""The functions of a program that is made for Wizer (its include/wizer.h): one that runs ahead of requests, and
one that runs instead of `_start`, which would call the constructors again."""
RESULTS = 16
"""The most results that `_start` may have. They are ignored, as in wazero."""


def http_for(module: wasmtime.Module, program: wasip1.Program, limits: Limits) -> CoreHttp | None:
    """Check the names of a module's imports. Return the outbound HTTP that it needs; None if it needs none.

    Parameters:
        module: the module.
        program: receives the guest's log lines on its stderr.
        limits: the limits of each run.

    Raises:
        GuestError: the module imports from an unknown module, or a name that a known one does not have.
    """
    known: dict[str, Collection[str]] = {wasip1.MODULE: wasip1.FUNCTIONS}
    found: CoreHttp | None = None
    if any(item.module in LEGACY_HTTP for item in module.imports):
        # Imported here because it loads the HTTP client, which guests that make no requests do not need.
        from hostfuncs.running.core_http import FUNCTIONS, CoreHttp

        known |= FUNCTIONS
        found = CoreHttp(module, program, limits)
    for item in module.imports:
        if item.module == "wasi_unstable":
            raise GuestError(
                "module[wasi_unstable] not instantiated: this is the WASI of 2019, which no current tool uses; "
                "build the guest again for wasm32-wasip1 (wasi_snapshot_preview1)"
            )
        if item.module not in known:
            raise GuestError(
                f"module[{item.module}] not instantiated: the guest imports {item.module}.{item.name}, "
                "which this host does not have"
            )
        if item.name not in known[item.module]:
            raise GuestError(f'"{item.name}" is not exported in module "{item.module}"')
    return found


def check_memory(module: wasmtime.Module) -> int | None:
    """Return the initial size of a module's memory in bytes, or None if it exports no memory.

    A guest without an export called `memory` can run. Every pointer that it passes is then out of bounds.

    Raises:
        GuestError: host functions cannot work with the export `memory`.
    """
    for export in module.exports:
        if export.name != "memory":
            continue
        if not isinstance(export.type, wasmtime.MemoryType):
            raise GuestError('the export "memory" is not a memory')
        if export.type.is_64:
            raise GuestError('the export "memory" has 64-bit addresses; WASI preview 1 has 32-bit ones')
        if export.type.is_shared:
            raise GuestError('the export "memory" is shared; threads are not supported')
        return int(export.type.limits.min) * PAGE_BYTES
    return None


def has_start(module: wasmtime.Module, name: str = START) -> bool:
    """Return whether the module exports the function that is run. Without it, a run ends after the instantiation, as in
    wazero.

    Parameters:
        module: the guest.
        name: the function.

    Raises:
        GuestError: it cannot be called without arguments.
    """
    for export in module.exports:
        if export.name == name:
            kind = export.type
            if not isinstance(kind, wasmtime.FuncType) or len(kind.params) or len(kind.results) > RESULTS:
                raise GuestError(f'the export "{name}" is not a function without parameters')
            return True
    return False


def check_initialize(module: wasmtime.Module, name: str) -> None:
    """Check that a module exports a function that can be called before `_start`.

    Raises:
        GuestError: it does not, or the function has parameters or results.
    """
    for export in module.exports:
        if export.name == name:
            kind = export.type
            if isinstance(kind, wasmtime.FuncType) and not len(kind.params) and not len(kind.results):
                return
            raise GuestError(f'the export "{name}" is not a function without parameters and results')
    raise GuestError(f'the module does not export "{name}"')


def native_for(program: wasip1.Program, limits: Limits) -> native.NativeRun | None:
    """Return the host functions in C for a guest; None if they were not built.

    Parameters:
        program: the state of preview 1's functions in Python.
        limits: the limits of each run.
    """
    library = native.find()
    if library is None:
        return None
    sources = program.sources
    return native.NativeRun(
        library,
        limits,
        resolutions=(sources.realtime_resolution, sources.monotonic_resolution),
        rights=(wasip1.RIGHTS_STDIN, wasip1.RIGHTS_OUTPUT),
        system_sources=isinstance(sources, wasip1.SystemSources),
    )


def link(
    engine: wasmtime.Engine,
    module: wasmtime.Module,
    program: wasip1.Program,
    http: CoreHttp | None,
    natively: native.NativeRun | None,
) -> wasmtime.InstancePre:
    """Resolve all imports of a module.

    Parameters:
        engine: the engine for which the module was compiled.
        module: the module.
        program: the state of preview 1's functions.
        http: its outbound HTTP, from `http_for`.
        natively: the guest's functions in C, which are tried before those in Python; None for none.

    Raises:
        GuestError: an import has another type than the host function of that name.
    """
    linker = wasmtime.Linker(engine)
    # A linker is the module's own, and defining a function takes some time: of 46 a small guest imports five.
    names = {(item.module, item.name or "") for item in module.imports}
    of_wasip1 = {name for imported_from, name in names if imported_from == wasip1.MODULE}
    wasip1.link(linker, program, None if natively is None else natively.front, names=of_wasip1)
    if http is not None:
        http.link(linker, names)
    try:
        return linker.instantiate_pre(module)
    except wasmtime.WasmtimeError as error:
        raise GuestError(f"the guest's imports do not fit: {error}") from None


def refused_instance(
    engine_address: int, pre: wasmtime.InstancePre, ceilings: tuple[int, int, int, int, int]
) -> str | None:
    """Try whether a module can be instantiated under the limits of its runs. None of its code runs: the store's epoch
    deadline has passed already, so a start function traps before its first instruction.

    Parameters:
        engine_address: the address of the engine.
        pre: the module, linked.
        ceilings: the limits of a store, as `wasmtime_store_limiter` takes them.

    Returns:
        wasmtime's reason why there can be no instance; None if there can be one.
    """
    store = capi.store_new(engine_address, None, None)
    try:
        capi.store_limiter(store, *ceilings)
        instance = (ctypes.c_uint64 * (capi.INSTANCE_BYTES // 8))()
        trap = (ctypes.c_uint64 * 1)()
        error = capi.instance_pre_instantiate(
            capi.address_of(pre), capi.store_context(store), ctypes.addressof(instance), ctypes.addressof(trap)
        )
    finally:
        capi.store_delete(store)
    if trap[0]:
        capi.take_trap(trap[0])
    return capi.take_error(error) if error else None

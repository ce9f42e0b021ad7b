"""Which host functions a core module gets, and what it must look like to get any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import wasmtime

from hostfuncs import wasip1
from hostfuncs.abi import InvocationState
from sandboxd.wire.messages import GuestSpec, OutboundUsage
from sandboxd.worker.guests import GuestError, Services

PAGE_BYTES = 65536


class Extension(Protocol):
    """Import namespaces beside WASI preview 1, linked for one guest."""

    def link(self, linker: wasmtime.Linker) -> None:
        """Define the functions. Before the fork."""

    def start(self, services: Services) -> None:
        """Once, after the fork."""

    def begin(self, deadline_ns: int) -> None:
        """An invocation begins."""

    def finish(self) -> tuple[OutboundUsage, ...]:
        """It is over, however it ended: release everything, and say what was used. Must not raise."""


class ExtensionKind(Protocol):
    """How to make an Extension for a guest that imports one of `modules`."""

    modules: frozenset[str]

    def __call__(self, spec: GuestSpec, module: wasmtime.Module, state: InvocationState) -> Extension:
        """Raises GuestError if the guest lacks an export the functions need."""


EXTENSIONS: list[Callable[[], ExtensionKind]] = []
"""Loaders, so that a worker without such guests does not import what they need."""


def extensions_for(spec: GuestSpec, module: wasmtime.Module, state: InvocationState) -> list[Extension]:
    """The extensions a module imports from.

    Raises:
        GuestError: it imports from a namespace nobody provides, or something WASI does not have.
    """
    wanted = {item.module: item.name for item in reversed(module.imports)}
    found: list[Extension] = []
    known = {wasip1.MODULE}
    for load_kind in EXTENSIONS:
        if wanted.keys() <= known:
            break
        kind = load_kind()
        if wanted.keys() & kind.modules:
            found.append(kind(spec, module, state))
        known |= kind.modules
    for name, item in wanted.items():
        if name == "wasi_unstable":
            raise GuestError(
                "module[wasi_unstable] not instantiated: this is the WASI of 2019, which no current tool makes; "
                "build the guest again for wasm32-wasip1 (wasi_snapshot_preview1)"
            )
        if name not in known:
            raise GuestError(f"module[{name}] not instantiated: the guest imports {name}.{item}, which no one provides")
    for imported in module.imports:
        if imported.module == wasip1.MODULE and imported.name not in wasip1.FUNCTIONS:
            raise GuestError(f'"{imported.name}" is not exported in module "{wasip1.MODULE}"')
    return found


def check_memory(module: wasmtime.Module) -> int | None:
    """The size a module's memory begins with, in bytes; None if it exports none.

    A guest without a memory called `memory` can run: every pointer it passes is then outside its memory.

    Raises:
        GuestError: `memory` is something host functions cannot work with.
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


def link(
    engine: wasmtime.Engine, module: wasmtime.Module, program: wasip1.Program, extensions: list[Extension]
) -> wasmtime.InstancePre:
    """Resolve every import.

    Raises:
        GuestError: an import has another type than the function of that name.
    """
    linker = wasmtime.Linker(engine)
    wasip1.link(linker, program)
    for extension in extensions:
        extension.link(linker)
    try:
        return linker.instantiate_pre(module)
    except wasmtime.WasmtimeError as error:
        raise GuestError(f"the guest's imports do not fit: {error}") from None

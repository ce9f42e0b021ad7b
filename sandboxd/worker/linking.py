"""Which host functions a core module gets, and what it must look like to get any."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import wasmtime

from hostfuncs import wasip1
from sandboxd.wire.messages import GuestSpec, OutboundUsage
from sandboxd.worker.guests import GuestError, Services

PAGE_BYTES = 65536


class Extension(Protocol):
    """Import namespaces beside WASI preview 1, linked for one guest."""

    functions: Mapping[str, Collection[str]]
    """Import module -> the names it has."""

    def link(self, linker: wasmtime.Linker) -> None:
        """Define the functions. Before the fork."""

    def prepare(self, services: Services) -> None:
        """Once, before the fork; see `sandboxd.worker.guests.Guest.prepare`."""

    def begin(self, deadline_ns: int) -> None:
        """An invocation begins."""

    def finish(self) -> tuple[OutboundUsage, ...]:
        """It is over, however it ended: release everything, and say what was used."""


def extensions_for(spec: GuestSpec, module: wasmtime.Module, program: wasip1.Program) -> list[Extension]:
    """The extensions a module imports from, having made sure that it imports nothing nobody has.

    Raises:
        GuestError: it imports from an unknown namespace, or something a known one does not have.
    """
    known: dict[str, Collection[str]] = {wasip1.MODULE: wasip1.FUNCTIONS}
    found: list[Extension] = []
    if any(item.module not in known for item in module.imports):
        # Not at the top: it brings the HTTP client along, which guests without requests do without.
        from sandboxd.worker.legacy import LegacyHttp

        legacy = LegacyHttp(spec, module, program)
        known |= legacy.functions
        if any(item.module in legacy.functions for item in module.imports):
            found.append(legacy)
    for item in module.imports:
        if item.module == "wasi_unstable":
            raise GuestError(
                "module[wasi_unstable] not instantiated: this is the WASI of 2019, which no current tool makes; "
                "build the guest again for wasm32-wasip1 (wasi_snapshot_preview1)"
            )
        if item.module not in known:
            raise GuestError(
                f"module[{item.module}] not instantiated: the guest imports {item.module}.{item.name}, "
                "which this server does not have"
            )
        if item.name not in known[item.module]:
            raise GuestError(f'"{item.name}" is not exported in module "{item.module}"')
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

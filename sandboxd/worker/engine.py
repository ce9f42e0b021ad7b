"""The only place where a wasmtime engine is configured.

The compiler and the workers must agree on everything that shapes machine code; what differs between them (the pooling
allocator, compile threads) does not, as a test shows.
"""

import mmap
import resource

import wasmtime
from wasmtime import _ffi as ffi

from sandboxd.errors import SandboxdError
from sandboxd.limits import KIB, MIB, TABLE_ELEMENTS_MAX, EngineSettings

HOST_STACK_BYTES = 1 * MIB
"""What Python and host functions need of the thread's stack beside the guest's share."""

WASM32_BYTES = 4096 * MIB
"""The most a 32-bit memory can have, and what is reserved for each so that no access needs a check."""

_CORE_INSTANCES = 256
"""Core instances alive at once; a component of today's toolchains has some ten to fifty."""
_TABLES = 128
_INSTANCE_BYTES = 64 * MIB
"""Ceiling of one instance's own record; the default of 1 MiB refuses interpreters of 26 MB. Nothing is reserved."""


def build(settings: EngineSettings, *, compiling: bool = False) -> wasmtime.Engine:
    """An engine for modules and components alike.

    Parameters:
        settings: equal on both sides of an artifact.
        compiling: True in the compile subprocess: may use all cores, and reserves no address space, so that its
            memory can be limited. False wherever guests run.

    Raises:
        SandboxdError: the machine cannot give what the settings ask for.
    """
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.max_wasm_stack = settings.wasm_stack_bytes
    config.parallel_compilation = compiling
    # hostfuncs.abi.memory looks at guest memory through views that growing must not invalidate.
    config.memory_may_move = False
    config.memory_reservation = WASM32_BYTES
    config.memory_init_cow = True
    # With it on, host functions that receive two borrowed handles trap (wasmtime 50). It takes part in the
    # compatibility check of artifacts.
    ffi.wasmtime_config_concurrency_support_set(config.ptr(), False)
    # Composed components need several memories in one module: what wasmtime generates to copy between their parts
    # has them. Core guests with more than one are refused before they are compiled (sandboxd.modules.preamble).
    config.wasm_multi_memory = True
    # All shared memory could be is a way to race the host's checks: a guest has one thread.
    config.wasm_threads = False
    if not compiling:
        # The C API ends the process when it cannot build an engine, so everything that could fail is tried first.
        _check_stack(settings)
        _check_memory(settings)
        _pool(config, settings)
    return wasmtime.Engine(config)


def _check_stack(settings: EngineSettings) -> None:
    """A guest must meet its own stack limit before it meets the end of the thread's stack, which would be a crash."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    needed = settings.wasm_stack_bytes + HOST_STACK_BYTES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise SandboxdError(
            f"the stack limit of {soft // KIB} KiB leaves no room for guests' {settings.wasm_stack_bytes // KIB} KiB",
            remedy=f"raise it to at least {needed // KIB} KiB (ulimit -s), or lower wasm.stack",
        )


def _check_memory(settings: EngineSettings) -> None:
    """Whether the pool's address space can be had. It is reserved, not used: no memory stands behind it."""
    if not 0 < settings.max_memory_bytes <= WASM32_BYTES:
        raise SandboxdError(
            f"max_memory_bytes is {settings.max_memory_bytes}",
            remedy=f"it may be 1 to {WASM32_BYTES}, the most a 32-bit memory can have",
        )
    if not 1 <= settings.max_memories <= 1000:
        raise SandboxdError(f"max_memories is {settings.max_memories}", remedy="it may be 1 to 1000")
    needed = (settings.max_memories + 1) * (WASM32_BYTES + 64 * MIB) + _TABLES * TABLE_ELEMENTS_MAX * 16
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except (OSError, ValueError, OverflowError) as error:
        raise SandboxdError(
            f"{needed // MIB} MiB of address space for {settings.max_memories} memories cannot be reserved: {error}",
            remedy="lower wasm.maxMemories, or raise the limit of address space (ulimit -v)",
        ) from error


def _pool(config: wasmtime.Config, settings: EngineSettings) -> None:
    """Instances come from slots that are reserved once and cleaned between guests, instead of from mmap and munmap."""
    pool = ffi.wasmtime_pooling_allocation_config_new()
    try:
        for name, value in {
            "total_core_instances": _CORE_INSTANCES,
            "total_component_instances": 16,
            "max_core_instances_per_component": _CORE_INSTANCES,
            "max_core_instance_size": _INSTANCE_BYTES,
            "max_component_instance_size": _INSTANCE_BYTES,
            "total_memories": settings.max_memories,
            "max_memories_per_module": settings.max_memories,
            "max_memories_per_component": settings.max_memories,
            "max_memory_size": settings.max_memory_bytes,
            "total_tables": _TABLES,
            "max_tables_per_module": _TABLES,
            "max_tables_per_component": _TABLES,
            "table_elements": TABLE_ELEMENTS_MAX,
            "total_gc_heaps": 4,
            # Stacks of asynchronous calls, of which there are none. Each would cost two mappings in every fork.
            "total_stacks": 1,
            "linear_memory_keep_resident": settings.keep_resident_bytes,
            "table_keep_resident": 64 * KIB,
            # One slot per memory stays mapped with its module's image, so that the next run finds it ready.
            "max_unused_warm_slots": settings.max_memories,
            # A batch only pays where many threads free slots at once.
            "decommit_batch_size": 1,
        }.items():
            setter = getattr(ffi, f"wasmtime_pooling_allocation_config_{name}_set")
            setter(pool, value)
        ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    finally:
        ffi.wasmtime_pooling_allocation_config_delete(pool)

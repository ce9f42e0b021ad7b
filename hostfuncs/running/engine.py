"""The only place where a wasmtime engine is configured.

An engine that compiles guests and one that runs them must agree on every setting that affects machine code. They differ
in the pooling allocator and the compile threads. A test proves that these do not affect it.
"""

import mmap
import os
import resource

import wasmtime
from wasmtime import _ffi as ffi

from hostfuncs.limits import KIB, MIB, TABLE_ELEMENTS_MAX, EngineSettings
from hostfuncs.running.errors import EngineError

HOST_STACK_BYTES = 1 * MIB
"""The stack that Python and host functions need beside the guest's part of the thread's stack."""

WASM32_BYTES = 4096 * MIB
"""The largest size of a 32-bit memory. This much is reserved for each, so that no access needs a bounds check."""

CORE_INSTANCES = 256
"""The most core instances that exist at once. Components of today's toolchains have about ten to fifty."""
TABLES = 128
"""The most tables that exist at once."""
_BACKTRACE_DETAILS = "WASMTIME_BACKTRACE_DETAILS"
_INSTANCE_BYTES = 64 * MIB
"""The most bytes of one instance's own record. wasmtime's default of 1 MiB refuses interpreters of 26 MB. Nothing is
reserved for it."""


def build(settings: EngineSettings, *, parallel_compilation: bool = False, pooling: bool = True) -> wasmtime.Engine:
    """Return an engine for modules and components.

    Parameters:
        settings: the settings. They must be the same where an artifact is compiled and where it runs.
        parallel_compilation: whether to compile on all cores.
        pooling: whether to take instances from slots that are reserved once. Address space for `max_memories` memories
            is reserved now, and no more can exist at once in all stores together. Without the pool, memory is mapped
            for every instance, which takes tens of microseconds a run.

    Raises:
        EngineError: the machine lacks what the settings need.
    """
    config = _new_config(settings.trace_lines)
    config.epoch_interruption = True
    config.max_wasm_stack = settings.wasm_stack_bytes
    config.parallel_compilation = parallel_compilation
    # hostfuncs.abi.memory has views of guest memory, which must stay valid when the memory grows.
    config.memory_may_move = False
    config.memory_reservation = WASM32_BYTES
    config.memory_init_cow = True
    # With this on, host functions that receive two borrowed handles trap (wasmtime 50). The setting takes part in
    # the compatibility check of artifacts.
    ffi.wasmtime_config_concurrency_support_set(config.ptr(), False)
    # wasmtime generates modules with several memories to copy between the parts of composed components. A core guest
    # with more than one memory is refused (see hostfuncs.running.core).
    config.wasm_multi_memory = True
    # A guest has one thread. Shared memory would only let it race the host's checks.
    config.wasm_threads = False
    if pooling:
        # The C API ends the process if it cannot build an engine. So all that could fail is tried first.
        _check_stack(settings)
        _check_memory(settings)
        _pool(config, settings)
    return wasmtime.Engine(config)


def _new_config(trace_lines: bool) -> wasmtime.Config:
    """Return a configuration.

    Parameters:
        trace_lines: see EngineSettings. The C API has no setting for it: wasmtime reads the variable whenever a
            configuration is made.
    """
    before = os.environ.get(_BACKTRACE_DETAILS)
    os.environ[_BACKTRACE_DETAILS] = "1" if trace_lines else "0"
    try:
        return wasmtime.Config()
    finally:
        if before is None:
            del os.environ[_BACKTRACE_DETAILS]
        else:
            os.environ[_BACKTRACE_DETAILS] = before


def _check_stack(settings: EngineSettings) -> None:
    """Refuse a thread stack that a guest would overflow before it reaches its own limit. That would be a crash."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    needed = settings.wasm_stack_bytes + HOST_STACK_BYTES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise EngineError(
            f"the stack limit of {soft // KIB} KiB leaves no room for guests' {settings.wasm_stack_bytes // KIB} KiB",
            remedy=f"raise it to at least {needed // KIB} KiB (ulimit -s), or lower wasm_stack_bytes",
            setting="wasm_stack_bytes",
        )


def _check_memory(settings: EngineSettings) -> None:
    """Check that the pool's address space is available. It is only reserved, so it needs no memory."""
    if not 0 < settings.max_memory_bytes <= WASM32_BYTES:
        raise EngineError(
            f"max_memory_bytes is {settings.max_memory_bytes}",
            remedy=f"it may be 1 to {WASM32_BYTES}, the most a 32-bit memory can have",
            setting="max_memory_bytes",
        )
    if not 1 <= settings.max_memories <= 1000:
        raise EngineError(
            f"max_memories is {settings.max_memories}", remedy="it may be 1 to 1000", setting="max_memories"
        )
    needed = (settings.max_memories + 1) * (WASM32_BYTES + 64 * MIB) + TABLES * TABLE_ELEMENTS_MAX * 16
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except (OSError, ValueError, OverflowError) as error:
        raise EngineError(
            f"{needed // MIB} MiB of address space for {settings.max_memories} memories cannot be reserved: {error}",
            remedy="lower max_memories, or raise the limit of address space (ulimit -v)",
            setting="max_memories",
        ) from error


def _pool(config: wasmtime.Config, settings: EngineSettings) -> None:
    """Configure the pooling allocator: slots for instances are reserved once, and are cleaned between guests."""
    pool = ffi.wasmtime_pooling_allocation_config_new()
    try:
        for name, value in {
            "total_core_instances": CORE_INSTANCES,
            "total_component_instances": 16,
            "max_core_instances_per_component": CORE_INSTANCES,
            "max_core_instance_size": _INSTANCE_BYTES,
            "max_component_instance_size": _INSTANCE_BYTES,
            "total_memories": settings.max_memories,
            "max_memories_per_module": settings.max_memories,
            "max_memories_per_component": settings.max_memories,
            "max_memory_size": settings.max_memory_bytes,
            "total_tables": TABLES,
            "max_tables_per_module": TABLES,
            "max_tables_per_component": TABLES,
            "table_elements": TABLE_ELEMENTS_MAX,
            "total_gc_heaps": 4,
            # Stacks are for asynchronous calls, which are not used. Each would cost two mappings in every fork.
            "total_stacks": 1,
            "linear_memory_keep_resident": settings.keep_resident_bytes,
            "table_keep_resident": 64 * KIB,
            # One slot for each memory stays mapped with its module's image, ready for the next run.
            "max_unused_warm_slots": settings.max_memories,
            # A batch only pays where many threads free slots at once.
            "decommit_batch_size": 1,
        }.items():
            setter = getattr(ffi, f"wasmtime_pooling_allocation_config_{name}_set")
            setter(pool, value)
        ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    finally:
        ffi.wasmtime_pooling_allocation_config_delete(pool)

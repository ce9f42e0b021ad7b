"""What one invocation may use, and what it did use."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

TABLE_ELEMENTS_MAX = 1_000_000
"""What every engine reserves for each table, so the most a binding can be given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Ceilings of one invocation of one binding. Reaching a value is allowed, passing it is not."""

    timeout_ms: int = 30_000
    """From the moment the request is understood to its result, waiting for a worker included. Milliseconds."""
    memory_bytes: int = 256 * MIB
    """Each linear memory of the guest. Bytes, in effect a multiple of 64 KiB."""
    table_elements: int = 200_000
    """Elements of each table."""
    args_bytes: int = 128 * KIB
    """argv, each argument with its terminating zero."""
    env_bytes: int = 128 * KIB
    """The environment, each `NAME=VALUE` with its terminating zero."""
    stdout_bytes: int = 16 * MIB
    """What the guest may write to stdout."""
    stderr_bytes: int = 64 * KIB
    """How much of stderr is kept (its end). More is counted and dropped, never an error."""
    host_entries: int = 4_096
    """Host objects (requests, streams, pollables, ...) alive at once."""
    outbound_requests: int = 1_000
    """Outbound HTTP requests started."""
    outbound_concurrency: int = 64
    """Outbound HTTP requests in flight at once. Further ones wait their turn."""
    outbound_header_bytes: int = 64 * KIB
    """All header names and values of one outbound request or of its response."""
    outbound_header_count: int = 128
    """Header lines of one outbound request or of its response."""
    outbound_body_bytes: int = 64 * MIB
    """Body of one outbound request or of its response."""
    http_body_bytes: int = 1024 * MIB
    """Body of a request that is streamed to the guest, or of the response it streams back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """What an engine is built with. Workers and the compiler must agree: the artifact fingerprint covers all of it."""

    wasm_stack_bytes: int = 1 * MIB
    """Stack of WebAssembly code. Bytes."""
    max_memory_bytes: int = 4096 * MIB
    """Address space reserved for each linear memory; no binding's `memory_bytes` can exceed it."""
    max_memories: int = 16
    """Linear memories alive at once in one worker (a component may hold several)."""
    keep_resident_bytes: int = 128 * KIB
    """Bytes of a memory slot that are zeroed by hand and not given back between invocations."""

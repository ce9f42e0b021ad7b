"""The limits of an invocation, and the settings of the WebAssembly engine.

Each field describes itself. A new limit is one field of `Limits`: sandboxd.yaml, variables, component metadata, the
documentation's tables, the JSON Schemas, error messages and the metric's label all come from it. What remains is the
code that enforces it. A limit named `outbound_NAME` is enforced by `hostfuncs.outbound`, which calls it NAME.
"""

from dataclasses import dataclass

from hostfuncs.limits import TABLE_ELEMENTS_MAX
from sandboxd.limits.about import flag, limit, number
from sandboxd.limits.units import DAY_MS, HOUR_MS, KIB, MIB, Unit

_D, _S, _C = Unit.DURATION, Unit.SIZE, Unit.COUNT


# The bounds below follow from the longest frame (256 MiB) and from 32-bit memories.
@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of an invocation. Reaching a value is allowed, passing it is not."""

    timeout_ms: int = limit(
        "timeout",
        _D,
        1,
        DAY_MS,
        "from the request to its result, waiting for a worker included",
        default=30_000,
        ceiling=HOUR_MS,
    )
    memory_bytes: int = limit(  # in effect a multiple of 64 KiB
        "memoryLimit",
        _S,
        64 * KIB,
        4096 * MIB,
        "each linear memory of the guest",
        default=256 * MIB,
        ceiling=4096 * MIB,
    )
    table_elements: int = limit(
        "tableElements",
        _C,
        1,
        TABLE_ELEMENTS_MAX,
        "elements of each table of the guest",
        default=200_000,
        ceiling=TABLE_ELEMENTS_MAX,
    )
    args_bytes: int = limit(
        "argsLimit", _S, 1, 16 * MIB, "arguments, each with its terminating zero", default=128 * KIB, ceiling=1 * MIB
    )
    env_bytes: int = limit(
        "envLimit",
        _S,
        1,
        16 * MIB,
        "environment, each `NAME=VALUE` with its terminating zero",
        default=128 * KIB,
        ceiling=1 * MIB,
    )
    stdout_bytes: int = limit(
        "stdoutLimit", _S, 0, 240 * MIB, "what the guest may write to stdout", default=16 * MIB, ceiling=128 * MIB
    )
    stderr_bytes: int = limit(  # more is counted and dropped, never an error
        "stderrLimit", _S, 0, 8 * MIB, "how much of the end of stderr is kept", default=64 * KIB, ceiling=1 * MIB
    )
    open_files: int = limit(
        "openFiles", _C, 1, 16_384, "files and folders open at once, beside the mounts", default=256, ceiling=4_096
    )
    file_write_bytes: int = limit(
        "fileWriteLimit",
        _S,
        0,
        1024 * 1024 * MIB,
        "what the guest may write to mounts, growing files included",
        default=64 * MIB,
        ceiling=64 * 1024 * MIB,
    )
    file_entries: int = limit(
        "fileEntries",
        _C,
        0,
        100_000_000,
        "files, folders and links that the guest may make in mounts",
        default=10_000,
        ceiling=1_000_000,
    )
    directory_entries: int = limit(
        "directoryEntries",
        _C,
        1,
        10_000_000,
        "entries of the folders that the guest lists at once",
        default=100_000,
        ceiling=1_000_000,
    )
    path_bytes: int = limit(
        "pathLimit", _S, 1, 4 * KIB, "each path that the guest gives", default=4 * KIB, ceiling=4 * KIB
    )
    host_entries: int = limit(
        "hostEntries",
        _C,
        8,
        1_000_000,
        "host objects (requests, streams, pollables) alive at once",
        default=4_096,
        ceiling=65_536,
    )
    host_memory_bytes: int = limit(
        "hostMemory",
        _S,
        1 * MIB,
        4096 * MIB,
        "what the host holds for the guest at once (handles, header fields, URLs, bodies, buffers)",
        default=64 * MIB,
        ceiling=1024 * MIB,
    )
    outbound_requests: int = limit(
        "outboundRequests",
        _C,
        0,
        10_000_000,
        "outbound HTTP requests of one invocation",
        default=1_000,
        ceiling=100_000,
        error_codes=("HTTP-request-denied",),
    )
    outbound_concurrency: int = limit(  # further requests wait their turn
        "outboundConcurrency", _C, 1, 10_000, "outbound HTTP requests in flight at once", default=64, ceiling=1_024
    )
    outbound_header_bytes: int = limit(
        # The codes do not tell outboundHeaderCount apart, so that limit is counted as this one.
        "outboundHeaderLimit",
        _S,
        256,
        8 * MIB,
        "header block of an outbound message",
        default=64 * KIB,
        ceiling=1 * MIB,
        error_codes=(
            "HTTP-request-header-section-size",
            "HTTP-request-header-size",
            "HTTP-request-trailer-section-size",
            "HTTP-request-trailer-size",
            "HTTP-response-header-section-size",
            "HTTP-response-trailer-section-size",
        ),
    )
    outbound_header_count: int = limit(
        "outboundHeaderCount", _C, 1, 10_000, "header lines of an outbound message", default=128, ceiling=1_024
    )
    outbound_body_bytes: int = limit(
        "outboundBodyLimit",
        _S,
        0,
        64 * 1024 * MIB,
        "body of an outbound message",
        default=64 * MIB,
        ceiling=1024 * MIB,
        error_codes=("HTTP-request-body-size", "HTTP-response-body-size"),
    )
    http_body_bytes: int = limit(
        "httpBodyLimit",
        _S,
        0,
        1024 * 1024 * MIB,
        "body streamed through `/v1.0/http/`, each way",
        default=1024 * MIB,
        ceiling=64 * 1024 * MIB,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """The settings of the WebAssembly engine. The fingerprint of artifacts covers them: a change recompiles all."""

    wasm_stack_bytes: int = number("stack", _S, 64 * KIB, 64 * MIB, "stack of WebAssembly code", default=1 * MIB)
    max_memory_bytes: int = number(
        "maxMemory", _S, 64 * KIB, 4096 * MIB, "address space of each linear memory", default=4096 * MIB
    )
    max_memories: int = number("maxMemories", _C, 1, 1_000, "linear memories alive at once in one worker", default=16)
    keep_resident_bytes: int = number(
        "keepResident", _S, 0, 256 * MIB, "memory kept between invocations, zeroed by hand", default=128 * KIB
    )
    native_functions: bool = flag(
        "nativeFunctions",
        True,
        "the commonest host functions of preview 1 run in C where that was built, or else in Python as the others",
    )
    trace_lines: bool = flag(
        "traceLines",
        False,
        "name files and lines in traps, for guests with debug information; `exit` then costs such a guest more",
    )

"""The limits of one run of a guest, and the settings of an engine.

Plain data: reading it loads neither wasmtime nor an HTTP client.
"""

from dataclasses import dataclass, fields
from enum import StrEnum, unique
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

TABLE_ELEMENTS_MAX: Final = 1_000_000
"""The elements that a pooling engine reserves for each table."""


@unique
class Limit(StrEnum):
    """The limits that can end a guest, or for which it is refused a file. The value is the name of the setting."""

    TIMEOUT_MS = "timeout_ms"
    MEMORY_BYTES = "memory_bytes"
    TABLE_ELEMENTS = "table_elements"
    STDOUT_BYTES = "stdout_bytes"
    HOST_ENTRIES = "host_entries"
    HOST_MEMORY_BYTES = "host_memory_bytes"
    WASM_STACK_BYTES = "wasm_stack_bytes"
    OPEN_FILES = "open_files"
    FILE_WRITE_BYTES = "file_write_bytes"
    FILE_ENTRIES = "file_entries"
    DIRECTORY_ENTRIES = "directory_entries"
    PATH_BYTES = "path_bytes"
    OUTBOUND_HEADER_BYTES = "outbound_header_bytes"
    OUTBOUND_HEADER_COUNT = "outbound_header_count"


_HIGHEST: Final = {"memory_bytes": 4096 * MIB, "table_elements": (1 << 32) - 1}
"""The most that 32-bit memories and tables can have."""
_ANY: Final = 1 << 40
"""Far beyond what a machine can give, and far below where the engine's 64-bit numbers end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Ceilings of one run. Reaching a value is allowed, passing it is not.

    Raises:
        TypeError: a value is not a whole number.
        ValueError: a value is negative, or higher than this host can enforce.
    """

    memory_bytes: int = 256 * MIB
    """Each linear memory of the guest, at most 4 GiB. Bytes, in effect a multiple of 64 KiB."""
    table_elements: int = 200_000
    """Elements of each table."""
    stdout_bytes: int = 16 * MIB
    """Bytes that the guest may write to stdout, and the size of a collected response body."""
    stderr_bytes: int = 64 * KIB
    """Bytes of the end of stderr that are kept. More is counted and dropped, never an error."""
    host_entries: int = 4_096
    """Host objects (requests, streams, pollables) alive at once."""
    host_memory_bytes: int = 64 * MIB
    """Bytes that the host holds for the guest at once: handles, header fields, URLs, bodies and buffers."""
    open_files: int = 256
    """Files and folders that the guest has open at once, beside its mounts."""
    file_write_bytes: int = 64 * MIB
    """Bytes that the guest may write to mounts. Growing a file counts as writing."""
    file_entries: int = 10_000
    """Files, folders and links that the guest may make in mounts."""
    directory_entries: int = 100_000
    """Entries of the folders that the guest lists at once. A longer folder cannot be listed."""
    path_bytes: int = 4_096
    """Each path that the guest gives. Bytes."""
    outbound_requests: int = 1_000
    """Outbound HTTP requests started."""
    outbound_concurrency: int = 64
    """Outbound HTTP requests in flight at once. Further ones wait their turn."""
    outbound_header_bytes: int = 64 * KIB
    """All header names and values of one outbound request or of its response. Bytes."""
    outbound_header_count: int = 128
    """Header lines of one outbound request or of its response."""
    outbound_body_bytes: int = 64 * MIB
    """Body of one outbound request or of its response. Bytes."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int:
                raise TypeError(f"{field.name} is {value!r}, not a whole number")
            highest = _HIGHEST.get(field.name, _ANY)
            if not 0 <= value <= highest:
                raise ValueError(f"{field.name} is {value}; it may be 0 to {highest}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """The settings of an engine. Artifacts run only in an engine with the settings they were compiled with."""

    wasm_stack_bytes: int = 1 * MIB
    """Stack of WebAssembly code. Bytes."""
    max_memory_bytes: int = 4096 * MIB
    """Address space that a pooling engine reserves for each linear memory. Bytes."""
    max_memories: int = 16
    """Linear memories alive at once in a pooling engine; a component may have several."""
    keep_resident_bytes: int = 128 * KIB
    """Bytes of a pooled memory that are zeroed by hand between runs instead of being given back."""
    native_functions: bool = True
    """Whether the commonest functions of preview 1 run in C, where that was built (see `hostfuncs.native`), for guests
    without files and HTTP."""
    trace_lines: bool = False
    """Whether traps tell files and lines where the guest has debug information. wasmtime reads that at each trap, and
    `proc_exit` is one for it: a guest that ends so pays up to a millisecond for each run."""

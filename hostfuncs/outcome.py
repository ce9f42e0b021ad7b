"""The outcomes of a run of a guest, and the sentences that wazero has for them.

Plain data: reading it loads neither wasmtime nor an HTTP client.
"""

from enum import StrEnum
from typing import Final


class Outcome(StrEnum):
    """The outcome of a run."""

    COMPLETED = "completed"
    """The guest returned, called `proc_exit(0)`, or has nothing to call (a module without `_start`, as in wazero)."""
    EXIT_NONZERO = "exit_nonzero"
    """The guest exited with another code than 0."""
    TRAPPED = "trapped"
    """The guest was ended: a WebAssembly trap, or a broken contract of a host function."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """The deadline passed while the guest was running or was blocked in a host function."""
    MEMORY_EXCEEDED = "memory_exceeded"
    """The guest failed, most likely because it was refused memory, or made the host hold too much for it."""
    OUTPUT_EXCEEDED = "output_exceeded"
    """The guest wrote more to stdout than its limit."""
    CANCELLED = "cancelled"
    """Nobody waits for the result any more."""
    HOST_FAILED = "host_failed"
    """The host itself failed: a bug or an exhausted machine, never the guest's doing."""

    # Enum's own is a function in Python.
    __hash__ = str.__hash__


# wazero's (sys/error.go), as Dapr passes them on.
EXITED: Final = "module closed with exit_code({code})"
"""To be formatted with the code."""
DEADLINE_PASSED: Final = "module closed with context deadline exceeded"
CANCELED: Final = "module closed with context canceled"

INTERNAL_ERROR: Final = "internal error"
"""The message to a caller about a fault of the host. The cause goes to the log."""

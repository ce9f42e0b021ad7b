"""What callers are told when a limit ended a guest: the limit's value, and the key that raises it."""

from __future__ import annotations

from hostfuncs.abi import DeadlineExceeded, HostTrap, OutputExceeded
from sandboxd.limit_keys import key_of, named
from sandboxd.limits import Limits
from sandboxd.outcome import Outcome

DEADLINE_TEXT = "module closed with context deadline exceeded"

Ending = tuple[Outcome, int, str, str]
"""Outcome, exit code, text for the caller, and the key of the limit that was passed (empty if none was)."""


def of(reason: OutputExceeded | DeadlineExceeded | HostTrap) -> Ending:
    """A guest that a host function, or the deadline, ended."""
    match reason:
        case OutputExceeded(limit=limit):
            text = f"wrote more than {named('stdout_bytes', limit)} to stdout"
            return Outcome.OUTPUT_EXCEEDED, 0, text, key_of("stdout_bytes")
        case DeadlineExceeded():
            return Outcome.DEADLINE_EXCEEDED, 0, DEADLINE_TEXT, key_of("timeout_ms")
        case HostTrap(message=message, limit=field) if field:
            return Outcome.TRAPPED, 0, f"wasm error: {message} ({key_of(field)})", key_of(field)
    return Outcome.TRAPPED, 0, f"wasm error: {reason.message}", ""


def stack_overflow(stack_bytes: int) -> Ending:
    """A guest that recursed too deeply. Begins with wazero's words."""
    text = f"wasm error: stack overflow: more than {named('wasm_stack_bytes', stack_bytes)} in use"
    return Outcome.TRAPPED, 0, text, key_of("wasm_stack_bytes")


NO_HEAP = "GC heap out of memory"
"""How wasmtime begins to say that the limit of memory left no room on the garbage-collected heap."""


def heap_exhausted(limits: Limits) -> Ending:
    """A guest whose objects do not fit into the memory it may have. The heap counts as one of its memories."""
    text = f"wasm error: out of memory for objects: more than {named('memory_bytes', limits.memory_bytes)}"
    return Outcome.MEMORY_EXCEEDED, 0, text, key_of("memory_bytes")


def too_large(what: str, text: str, limits: Limits) -> Ending:
    """A guest that cannot even be instantiated: imports were resolved when it was linked, so only a limit is left.

    Parameters:
        what: `module` or `component`.
        text: wasmtime's. The C API has nothing better to tell a table from a memory by, so it chooses the words here;
            either way the outcome is the same.
        limits: the binding's.
    """
    field = "table_elements" if "table" in text else "memory_bytes"
    noun = "table elements" if field == "table_elements" else "memory"
    bound = named(field, getattr(limits, field))
    return Outcome.MEMORY_EXCEEDED, 0, f"the {what} needs more {noun} to begin with than {bound}", key_of(field)

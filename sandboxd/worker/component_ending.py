"""What a component's run that the engine says has failed is called."""

from __future__ import annotations

import sys

from hostfuncs.abi import (
    Cancelled,
    DeadlineExceeded,
    HostTrap,
    InvocationState,
    OutputExceeded,
    ProcExit,
)
from sandboxd.outcome import Outcome

DEADLINE_TEXT = "module closed with context deadline exceeded"
CANCELLED_TEXT = "module closed with context canceled"
TOO_LARGE = "the component needs more memory or table elements than its limits allow"
_TRAP_MARK = "wasm trap: "
_TEXT_MAX = 200

# An error of the component API carries no trap code, only wasmtime's text. It is shown, and decides nothing; these are
# wazero's words for the same traps, which callers of Dapr know.
_WORDS = {
    "wasm `unreachable` instruction executed": "unreachable",
    "call stack exhausted": "stack overflow",
    "undefined element: out of bounds table access": "invalid table access",
    "out of bounds table access": "invalid table access",
    "uninitialized element": "invalid table access",
}


def exited(code: int) -> tuple[Outcome, int, str]:
    """Outcome, exit code and text of a guest that ended itself."""
    if code == 0:
        return Outcome.COMPLETED, 0, ""
    return Outcome.EXIT_NONZERO, code, f"module closed with exit_code({code})"


def why(binding: str, state: InvocationState, text: str, *, in_guest: bool) -> tuple[Outcome, int, str]:
    """Outcome, exit code and text of a run that was ended.

    Parameters:
        binding: for the log.
        state: knows if the host ended it.
        text: wasmtime's, of the error.
        in_guest: whether guest code was running; False if there never was an instance.
    """
    if state.failure is not None:
        print(f"host function for {binding} failed:\n{state.failure}", file=sys.stderr, flush=True)
        return Outcome.HOST_FAILED, 0, "internal error"
    match state.ended:
        case ProcExit(code=code):
            return exited(code)
        case OutputExceeded() as reason:
            return Outcome.OUTPUT_EXCEEDED, 0, str(reason)
        case DeadlineExceeded():
            return Outcome.DEADLINE_EXCEEDED, 0, DEADLINE_TEXT
        case Cancelled():
            return Outcome.CANCELLED, 0, CANCELLED_TEXT
        case HostTrap(message=message):
            return Outcome.TRAPPED, 0, f"wasm error: {message}"
    if not in_guest:
        # Imports were resolved when the guest was linked, and the pool has room for one: only a limit is left.
        print(f"{binding} cannot be instantiated: {text}", file=sys.stderr, flush=True)
        return Outcome.MEMORY_EXCEEDED, 0, TOO_LARGE
    return Outcome.TRAPPED, 0, f"wasm error: {_words(text)}"


def _words(text: str) -> str:
    last = text.strip().rpartition("\n")[2].strip()
    shown = last.rpartition(_TRAP_MARK)[2] if _TRAP_MARK in last else last
    return _WORDS.get(shown, shown)[:_TEXT_MAX] or "trap"

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
from sandboxd.limits import Limits
from sandboxd.outcome import Outcome
from sandboxd.worker import endings, traps

CANCELLED_TEXT = "module closed with context canceled"
_STACK_OVERFLOW = "call stack exhausted"

# An error of the component API carries no trap code, only wasmtime's text. It is shown, and decides nothing; these are
# wazero's words for the same traps, which callers of Dapr know.
_WORDS = {
    "wasm `unreachable` instruction executed": "unreachable",
    "undefined element: out of bounds table access": "invalid table access",
    "out of bounds table access": "invalid table access",
    "uninitialized element": "invalid table access",
}


def exited(code: int) -> endings.Ending:
    """A guest that ended itself."""
    if code == 0:
        return Outcome.COMPLETED, 0, "", ""
    return Outcome.EXIT_NONZERO, code, f"module closed with exit_code({code})", ""


def why(
    binding: str, state: InvocationState, text: str, *, in_guest: bool, limits: Limits, stack_bytes: int
) -> endings.Ending:
    """A run that was ended.

    Parameters:
        binding: for the log.
        state: knows if the host ended it.
        text: wasmtime's, of the error.
        in_guest: whether guest code was running; False if there never was an instance.
        limits: the binding's.
        stack_bytes: what the engine gives guests.
    """
    if state.failure is not None:
        print(f"host function for {binding} failed:\n{state.failure}", file=sys.stderr, flush=True)
        return Outcome.HOST_FAILED, 0, "internal error", ""
    match state.ended:
        case ProcExit(code=code):
            return exited(code)
        case Cancelled():
            return Outcome.CANCELLED, 0, CANCELLED_TEXT, ""
        case OutputExceeded() | DeadlineExceeded() | HostTrap() as ended:
            return endings.of(ended)
    if not in_guest:
        print(f"{binding} cannot be instantiated: {text}", file=sys.stderr, flush=True)
        return endings.too_large("component", text, limits)
    shown = traps.last_line(text)
    if shown.startswith(endings.NO_HEAP):
        return endings.heap_exhausted(limits)
    if shown == _STACK_OVERFLOW:
        return endings.stack_overflow(stack_bytes)
    return Outcome.TRAPPED, 0, f"wasm error: {_WORDS.get(shown, shown) or 'trap'}", ""

"""The names of traps. They are wazero's (`internal/wasmruntime/errors.go`), which callers of Dapr know."""

import re
from functools import lru_cache
from typing import Final

from hostfuncs import texts

_TEXTS: Final = {
    0: "stack overflow",
    1: "out of bounds memory access",
    2: "unaligned atomic",
    3: "invalid table access",
    4: "invalid table access",
    5: "indirect call type mismatch",
    6: "integer overflow",
    7: "integer divide by zero",
    8: "invalid conversion to integer",
    9: "unreachable",
    11: "out of fuel",
    12: "expected shared memory",
    13: "null reference",
    14: "out of bounds array access",
    15: "allocation too large",
    16: "cast failure",
    19: "unhandled tag",
    49: "uncaught exception",
}
"""`wasmtime_trap_code_t` -> name. Where wazero has no name, it is wasmtime's."""

STACK_OVERFLOW: Final = 0
"""The trap code of a stack overflow."""

_MARK: Final = "wasm trap: "
_TEXT_MAX: Final = 200

_FRAME: Final = re.compile(r" *(?:\d+: +0x([0-9a-f]+))? +- (.+)")
_PLACE: Final = re.compile(r" +at (.+)")
_NAMELESS: Final = re.compile(r"<wasm function (\d+)>")
_FRAMES_MAX: Final = 30
"""As in wazero (`internal/wasmdebug`)."""
_TRACE_MAX: Final = texts.TRACE_BYTES - 100
_NAME_MAX: Final = 160
_REMEMBERED_MAX: Final = 4096
"""The longest message whose trace is cached, in characters. Guests choose the names in it."""


def last_line(text: str) -> str:
    """Return the cause in wasmtime's words: the end of its message, after the addresses of the guest's functions."""
    last = text.strip().rpartition("\n")[2].strip()
    return (last.rpartition(_MARK)[2] if _MARK in last else last)[:_TEXT_MAX]


def describe(code: int | None, text: str) -> str:
    """Return the name of a trap for the caller.

    Parameters:
        code: the trap's code; None if it has none.
        text: wasmtime's message, which is used if there is no code.
    """
    if code is None:
        return f"wasm error: {last_line(text) or 'trap'}"
    return f"wasm error: {_TEXTS.get(code) or f'trap {code}'}"


def trace(text: str) -> str:
    """Return the stack trace of a trap, in wazero's form (`internal/wasmdebug`); empty if there is none.

    Each function has a line, the innermost first: `MODULE.NAME(...)`, or `MODULE.$INDEX(...)` where the module has no
    names. Where the guest has debug information, a line with the file follows. wazero has the types of the parameters
    between the parentheses; wasmtime does not keep them.

    Parameters:
        text: wasmtime's message. The guest has chosen the names in it, so the result is bounded: at most 30 functions
            and texts.TRACE_BYTES.
    """
    return _remembered(text) if len(text) <= _REMEMBERED_MAX else _trace(text)


def _trace(text: str) -> str:
    head, _, _ = text.partition("\nCaused by:")
    _, found, listing = head.partition("wasm backtrace:\n")
    lines: list[str] = []
    frames = size = 0
    for line in listing.split("\n") if found else ():
        if frame := _FRAME.fullmatch(line):
            frames += 1
            said = f"\t{_function(frame[2])}"
        elif place := _PLACE.fullmatch(line):
            said = f"\t\t{place[1][-_NAME_MAX:]}"
        else:
            continue
        size += len(said.encode("utf-8", "replace")) + 1
        if frames > _FRAMES_MAX or size > _TRACE_MAX:
            lines.append("\t... maybe followed by omitted frames")
            break
        lines.append(said)
    return "\n".join(("\nwasm stack trace:", *lines)) if lines else ""


_remembered: Final = lru_cache(maxsize=16)(_trace)
"""Caches traces. A guest that traps often does so mostly in the same place, and reading a trace takes longer than a
run."""


def _function(name: str) -> str:
    """Return wazero's name of a function for wasmtime's: `app.wasm.main(...)` for `app.wasm!main`."""
    module, mark, function = name.partition("!")
    if not mark:
        module, function = "", name
    if module == "<unknown>":
        module = ""
    function = _NAMELESS.sub(r"$\1", function)
    return f"{module[:_NAME_MAX]}.{function[:_NAME_MAX]}(...)"


STACK_OVERFLOW_TEXT: Final = "call stack exhausted"
"""wasmtime's message for a stack overflow, for errors without a code."""

COMPONENT_TEXTS: Final = {
    "wasm `unreachable` instruction executed": "unreachable",
    "undefined element: out of bounds table access": "invalid table access",
    "out of bounds table access": "invalid table access",
    "uninitialized element": "invalid table access",
}
"""wazero's words for wasmtime's. The errors of components carry no trap code, so the text is translated."""

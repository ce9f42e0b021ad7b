"""What a trap is called: wazero's words (`internal/wasmruntime/errors.go`), which callers of Dapr know."""

from typing import Final

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
"""By wasmtime's `wasmtime_trap_code_t`; the ones wazero has no word for are wasmtime's."""


STACK_OVERFLOW: Final = 0


_MARK: Final = "wasm trap: "
_TEXT_MAX: Final = 200


def last_line(text: str) -> str:
    """What wasmtime says the cause was: the end of its text, behind the addresses of the guest's functions."""
    last = text.strip().rpartition("\n")[2].strip()
    return (last.rpartition(_MARK)[2] if _MARK in last else last)[:_TEXT_MAX]


def describe(code: int | None, text: str) -> str:
    """The text for the caller.

    Parameters:
        code: of the trap; None if it has none.
        text: wasmtime's, which is told where there is no code.
    """
    if code is None:
        return f"wasm error: {last_line(text) or 'trap'}"
    return f"wasm error: {_TEXTS.get(code) or f'trap {code}'}"

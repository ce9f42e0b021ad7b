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


def describe(code: int | None) -> str:
    """The text for the caller, of a trap code (None: a trap without one)."""
    if code is None:
        return "wasm error: trap"
    return f"wasm error: {_TEXTS.get(code) or f'trap {code}'}"

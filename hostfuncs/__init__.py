"""Runs WebAssembly guests, and has the functions that they may call. Knows nothing of the server.

    import hostfuncs

    result = hostfuncs.run("guest.wasm", args=["--upper"], stdin=b"hello", timeout=5)
    print(result.outcome, result.stdout)

`run` and `Program` take core modules of WASI preview 1, with Dapr's wasi-http or without, and components of WASI 0.2,
commands as well as HTTP handlers. docs/hostfuncs.md shows more. The packages below (`hostfuncs.wasip1`,
`hostfuncs.outbound`, ...) are for those who build a host of their own.

Names are loaded when they are first used: a program that wants only one of the plain ones does not load wasmtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hostfuncs.files import Mount, Tmp
    from hostfuncs.limits import Limit, Limits
    from hostfuncs.outbound.policy import Policy
    from hostfuncs.outbound.values import Settings, UsageRecord
    from hostfuncs.outcome import Outcome
    from hostfuncs.program import Program, run
    from hostfuncs.running.errors import EngineError, GuestError
    from hostfuncs.running.values import HttpRequest, HttpResponse, Result

_HOMES = {
    "EngineError": "hostfuncs.running.errors",
    "GuestError": "hostfuncs.running.errors",
    "HttpRequest": "hostfuncs.running.values",
    "HttpResponse": "hostfuncs.running.values",
    "Limit": "hostfuncs.limits",
    "Limits": "hostfuncs.limits",
    "Mount": "hostfuncs.files",
    "Outcome": "hostfuncs.outcome",
    "Policy": "hostfuncs.outbound.policy",
    "Program": "hostfuncs.program",
    "Result": "hostfuncs.running.values",
    "Settings": "hostfuncs.outbound.values",
    "Tmp": "hostfuncs.files",
    "UsageRecord": "hostfuncs.outbound.values",
    "run": "hostfuncs.program",
}

__all__ = [
    "EngineError",
    "GuestError",
    "HttpRequest",
    "HttpResponse",
    "Limit",
    "Limits",
    "Mount",
    "Outcome",
    "Policy",
    "Program",
    "Result",
    "Settings",
    "Tmp",
    "UsageRecord",
    "run",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Between Python and a core WebAssembly guest: typed C prototypes, bounds-checked memory, one exception boundary.

Everything a host function needs:

- `define(linker, module, name, "iiIi", "i", function, state, fault=...)` makes a function importable;
- `InvocationState` is what it serves: `state.memory`, `state.deadline_ns`, `state.check()`;
- it tells the guest by its result, or ends it by raising a `GuestEnded`.
"""

from hostfuncs.abi.define import define, func_type
from hostfuncs.abi.ending import (
    Cancelled,
    DeadlineExceeded,
    Fault,
    GuestEnded,
    GuestTrapped,
    HostTrap,
    OutputExceeded,
    ProcExit,
)
from hostfuncs.abi.guestcall import GuestFunction, exported_function_type
from hostfuncs.abi.memory import GuestMemory
from hostfuncs.abi.state import InvocationState

__all__ = [
    "Cancelled",
    "DeadlineExceeded",
    "Fault",
    "GuestEnded",
    "GuestFunction",
    "GuestMemory",
    "GuestTrapped",
    "HostTrap",
    "InvocationState",
    "OutputExceeded",
    "ProcExit",
    "define",
    "exported_function_type",
    "func_type",
]

"""The layer between Python and a core WebAssembly guest: C prototypes, bounds-checked memory, one exception boundary.

A host function needs these:

- `define(linker, module, name, "iiIi", "i", function, state, fault=...)` makes a function importable;
- `InvocationState` is the run that the function serves: `state.memory`, `state.deadline_ns`, `state.check()`;
- the function returns its result to the guest, or ends the guest by raising a `GuestEnded`.
"""

from hostfuncs.abi.define import define, func_type
from hostfuncs.abi.guestcall import GuestFunction, exported_function_type
from hostfuncs.abi.memory import GuestMemory
from hostfuncs.abi.state import InvocationState
from hostfuncs.ending import (
    Cancelled,
    DeadlineExceeded,
    Fault,
    GuestEnded,
    GuestTrapped,
    HostMemoryExceeded,
    HostTrap,
    OutputExceeded,
    ProcExit,
)

__all__ = [
    "Cancelled",
    "DeadlineExceeded",
    "Fault",
    "GuestEnded",
    "GuestFunction",
    "GuestMemory",
    "GuestTrapped",
    "HostMemoryExceeded",
    "HostTrap",
    "InvocationState",
    "OutputExceeded",
    "ProcExit",
    "define",
    "exported_function_type",
    "func_type",
]

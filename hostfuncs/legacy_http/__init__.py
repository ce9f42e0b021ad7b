"""Dapr's wasi-http for core modules: the ABI of wasi-go's `imports/wasi_http`, one file per import module.

state = InvocationState()
calls = Calls(state, realloc_usable=realloc_usable(module), entries=4096, memory_bytes=2**26, log=print)
link(linker, calls)
...                                                     # once per run:
state.begin(deadline_ns)
calls.begin(lambda: outbound.begin(policy, limits, deadline_ns, state.check, calls.account))
state.enter(context, 0)                                 # the context of a new store
...                                                     # instantiate, set state.instance, call
state.finish()                                          # always, before the store is deleted
calls.finish()                                          # always; returns the usage records

`hostfuncs.running` does all this, and `hostfuncs.run` is the shortest way to use it.

Guest memory: parameters are unsigned 32-bit integers unless a docstring says otherwise. A pointer is an offset in the
guest's memory, a length is in bytes, and `count` is a number of array elements. A function writes its results as
little-endian u32 fields at the parameter `out`. It writes strings and arrays into memory that it has the guest's
`cabi_realloc` allocate. A handle is a number that names a resource for one invocation.

Failures: the future has the error of a failed request, and the stream has the error of a body that broke off. Every
other failure is a trap: it ends the guest, with a message that names the function and the argument. Docstrings list
traps after "Traps:". "No such request" stands for a handle that is unknown, dropped or of another kind. Every function
also traps if it is called from within `cabi_realloc`, or if the guest would hold more handles, or more of the host's
memory, than its limits allow.
"""

from collections.abc import Callable, Container
from functools import partial

import wasmtime

from hostfuncs.abi import HostTrap, define, exported_function_type
from hostfuncs.imports import HTTP_OUTGOING, HTTP_STREAMS, HTTP_TYPES
from hostfuncs.legacy_http import outgoing, streams, types
from hostfuncs.legacy_http.calls import REALLOC, REALLOC_TYPE, Calls, Function

MODULES: dict[str, tuple[Function, ...]] = {
    HTTP_TYPES: types.FUNCTIONS,
    HTTP_STREAMS: streams.FUNCTIONS,
    HTTP_OUTGOING: outgoing.FUNCTIONS,
}
"""The functions of each import module. A guest that imports from one of these modules needs outbound HTTP."""


def realloc_usable(module: wasmtime.Module) -> bool:
    """Return whether a module exports `cabi_realloc` with the type by which the host calls it."""
    return exported_function_type(module, REALLOC) == REALLOC_TYPE


def link(linker: wasmtime.Linker, calls: Calls, *, names: Container[tuple[str, str]] | None = None) -> None:
    """Define functions for the guests that `linker` links.

    Parameters:
        names: the functions that the guests import, as pairs of module and name; None defines every one.

    Raises:
        ValueError: one of them is defined already.
    """
    for module, functions in MODULES.items():
        for function in functions:
            if names is not None and (module, function.name) not in names:
                continue
            define(
                linker,
                module,
                function.name,
                function.params,
                function.result,
                _outside_realloc(calls, f"{module}.{function.name}", function.call),
                calls.state,
            )


def _outside_realloc(calls: Calls, name: str, call: Callable[..., int | None]) -> Callable[..., int | None]:
    """Return a function that traps if the guest calls it from within `cabi_realloc`, while another function runs."""
    inner = partial(call, calls, name)
    state = calls.state

    def guarded(*arguments: int) -> int | None:
        if state.inside_guest_call:
            raise HostTrap(f"{name} was called from within {REALLOC}")
        return inner(*arguments)

    return guarded


__all__ = ["MODULES", "Calls", "Function", "link", "realloc_usable"]

"""Dapr's wasi-http for core modules: the ABI of wasi-go's `imports/wasi_http`, one file per import module.

state = InvocationState()
calls = Calls(state, realloc_usable=realloc_usable(module), entries=4096, log=print)
link(linker, calls)
...                                                     # once per invocation:
calls.begin(lambda: outbound.begin(policy, limits, deadline_ns, state.check))
...                                                     # run the guest
calls.finish()                                          # always; usage records

Every host failure is either an answer the guest gets (a future that says the request failed, a stream that says it
broke off) or the end of the guest, with a message that names the function and the argument.
"""

from collections.abc import Callable
from functools import partial

import wasmtime

from hostfuncs.abi import HostTrap, define, exported_function_type
from hostfuncs.legacy_http import outgoing, poll, streams, types
from hostfuncs.legacy_http.calls import REALLOC, REALLOC_TYPE, Calls, Function

MODULES: dict[str, tuple[Function, ...]] = {
    "types": types.FUNCTIONS,
    "streams": streams.FUNCTIONS,
    "default-outgoing-HTTP": outgoing.FUNCTIONS,
    "poll": poll.FUNCTIONS,
}
"""Import module -> its functions. A guest that imports from one of these wants outbound HTTP."""


def realloc_usable(module: wasmtime.Module) -> bool:
    """Whether a module exports `cabi_realloc` with the type the host calls it by."""
    return exported_function_type(module, REALLOC) == REALLOC_TYPE


def link(linker: wasmtime.Linker, calls: Calls) -> None:
    """Define every function for guests linked by `linker`.

    Raises:
        ValueError: one is defined already.
    """
    for module, functions in MODULES.items():
        for function in functions:
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
    """The function, refused to a guest that calls it from within `cabi_realloc`, in the middle of another one."""
    inner = partial(call, calls, name)
    state = calls.state

    def guarded(*arguments: int) -> int | None:
        if state.inside_guest_call:
            raise HostTrap(f"{name} was called from within {REALLOC}")
        return inner(*arguments)

    return guarded


__all__ = ["MODULES", "Calls", "Function", "link", "realloc_usable"]

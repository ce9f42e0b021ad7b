"""Call a function that the guest exports from inside a host function. An example is the allocator `cabi_realloc`."""

import ctypes
from typing import Any

import wasmtime

from hostfuncs.abi import capi
from hostfuncs.abi.state import InvocationState
from hostfuncs.ending import GuestTrapped, HostTrap


def exported_function_type(module: wasmtime.Module, name: str) -> tuple[list[str], list[str]] | None:
    """Return the parameter and result types of an exported function, as the text format names them; None if there is
    none.
    """
    for export in module.exports:
        if export.name == name and isinstance(export.type, wasmtime.FuncType):
            return [str(kind) for kind in export.type.params], [str(kind) for kind in export.type.results]
    return None


class GuestFunction:
    """An exported function of type `i32 ... -> i32`, callable while the guest waits in a host function.

    Calls through the raw interface trust the type, so the owner checks `exported_function_type` when the module is
    loaded. A guest without the function is ended when the function is first needed.

    Parameters:
        state: the run.
        name: the name of the export.
        parameters: how many i32 parameters it takes, 1 to 8.
    """

    __slots__ = ("_call_values", "_extern", "_name", "_parameters", "_serial", "_state", "_trap", "_usable")

    def __init__(self, state: InvocationState, name: str, parameters: int, *, usable: bool) -> None:
        self._state = state
        self._name = name.encode()
        self._parameters = parameters
        self._usable = usable
        """Whether the module exports the function with the right type, as found when the module was loaded."""
        self._serial = -1
        self._extern = ctypes.create_string_buffer(capi.EXTERN_BYTES)
        self._call_values = (ctypes.c_uint64 * (2 * max(parameters, 1)))()
        self._trap = (ctypes.c_uint64 * 1)()

    def __call__(self, *arguments: int) -> int:
        """Call it with unsigned 32-bit numbers; the answer is one too.

        Raises:
            RuntimeError: no run has been entered (see `InvocationState.enter`): a mistake of the embedder.
            HostTrap: the guest does not export it so, or called a host function from within such a call that needs
                a further one (nesting is not allowed: it could exhaust the stack).
            GuestTrapped: it trapped. GuestEnded: a host function it called ended the guest.
        """
        state = self._state
        if not state.context:
            raise RuntimeError(
                f"{self._name.decode()} was called outside a run; call InvocationState.begin and enter before the guest"
            )
        if not self._usable:
            raise HostTrap(f"the module exports no function {self._name.decode()!r} of the type this host needs")
        if state.inside_guest_call:
            raise HostTrap(f"{self._name.decode()} was needed while the guest was in such a call already")
        assert len(arguments) == self._parameters
        function = ctypes.addressof(self._extern) + capi.EXTERN_ITEM_OFFSET
        if self._serial != state.serial:
            extern = ctypes.addressof(self._extern)
            if state.instance:
                found = capi.instance_export_get(state.context, state.instance, self._name, len(self._name), extern)
            else:
                # A start function is running: the host does not have the instance yet, but the caller structure does.
                found = capi.caller_export_get(state.memory.caller, self._name, len(self._name), extern)
            if not found or self._extern[0] != bytes((capi.EXTERN_FUNC,)):
                raise HostTrap(f"the module exports no function {self._name.decode()!r}")
            self._serial = state.serial
        values: Any = self._call_values
        for at, argument in enumerate(arguments):
            values[2 * at] = argument
        self._trap[0] = 0
        state.inside_guest_call = True
        caller = state.memory.caller
        try:
            error = capi.func_call_unchecked(
                state.context,
                function,
                ctypes.addressof(values),
                max(self._parameters, 1),
                ctypes.addressof(self._trap),
            )
        finally:
            state.inside_guest_call = False
            # Host functions that the guest called have set callers of their own, which are invalid now.
            state.memory.caller = caller
        trap = self._trap[0]
        if trap:
            code, text = capi.take_trap(trap)
            raise state.ended or GuestTrapped(code, text)
        if error:
            raise state.ended or GuestTrapped(None, capi.take_error(error))
        return int(values[0]) & 0xFFFFFFFF

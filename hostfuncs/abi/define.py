"""Define host functions. This is the only boundary between core guests and Python.

ctypes prints a Python exception that leaves a callback, and goes on. wasmtime then reads a result that was never
written, which ends the process. Therefore every exception of a host function is caught here, `BaseException` included.
An exception that a signal handler raises before the `try` is entered cannot be caught. A process that runs guests must
not have such handlers (Python's own for SIGINT is one), or must wrap them: see `hostfuncs.running.signals`.
"""

import struct
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import wasmtime
from wasmtime import FuncType, ValType

from hostfuncs.abi import capi
from hostfuncs.abi.state import InvocationState
from hostfuncs.ending import Fault

MAX_VALUES = 16
"""Most parameters, or results, of a host function."""

_TYPES: dict[str, Callable[[], ValType]] = {"i": ValType.i32, "I": ValType.i64, "f": ValType.f32, "F": ValType.f64}
_FIELDS = {"i": "I12x", "I": "Q8x", "f": "f12x", "F": "d8x"}


class _RawValues(dict[int, memoryview]):
    """Views of `wasmtime_val_raw_t` arrays by address.

    The arrays lie on the stack of the calling code, so that the same few addresses recur. Finding a view is many times
    cheaper than making one. Only the values that the function's type has are read or written.
    """

    def __missing__(self, address: int) -> memoryview:
        if len(self) >= 4096:
            self.clear()
        view = self[address] = capi.view_of(address, MAX_VALUES * capi.VALUE_BYTES).cast("I")
        return view


_values = _RawValues()


def func_type(params: str, result: str) -> FuncType:
    """Return a function type from letters: `i` i32, `I` i64, `f` f32, `F` f64.

    Raises:
        ValueError: another letter, more than one result, or too many parameters.
    """
    if len(params) > MAX_VALUES or len(result) > 1 or set(params + result) - _TYPES.keys():
        raise ValueError(f"not a function type: {params!r} -> {result!r}")
    return FuncType([_TYPES[letter]() for letter in params], [_TYPES[letter]() for letter in result])


_kept: WeakKeyDictionary[wasmtime.Engine, dict[tuple[str, str], FuncType]] = WeakKeyDictionary()


def _kept_type(engine: wasmtime.Engine, params: str, result: str) -> FuncType:
    """Return a function type that is made once. Making one takes longer than all else that defines a function.

    Once a linker was given a type, the type belongs to the linker's engine: with another engine it ends the process.
    """
    types = _kept.setdefault(engine, {})
    found = types.get((params, result))
    if found is None:
        found = types[params, result] = func_type(params, result)
    return found


def callback(
    params: str, result: str, function: Callable[..., Any], state: InvocationState, *, fault: int | None = None
) -> Callable[[Any, int, int, int], int]:
    """Return the raw callback that `define` passes to wasmtime. Parameters as there."""
    layout = struct.Struct("<" + "".join(_FIELDS[letter] for letter in params))
    unpack = layout.unpack_from
    values = _values
    end = state.end
    memory = state.memory

    if not result:

        def call_without_result(_env: Any, caller: int, raw: int, _count: int) -> int:
            try:
                memory.caller = caller
                function(*unpack(values[raw]))
            except BaseException as error:  # noqa: BLE001 - see the module's docstring
                return end(error)
            return 0

        return call_without_result

    if result == "i":

        def call(_env: Any, caller: int, raw: int, _count: int) -> int:
            try:
                memory.caller = caller
                view = values[raw]
                try:
                    view[0] = function(*unpack(view))
                except Fault:
                    if fault is None:
                        raise
                    view[0] = fault
            except BaseException as error:  # noqa: BLE001 - see the module's docstring
                return end(error)
            return 0

        return call

    pack = struct.Struct("<" + _FIELDS[result]).pack_into

    def call_wide(_env: Any, caller: int, raw: int, _count: int) -> int:
        try:
            memory.caller = caller
            view = values[raw]
            pack(view, 0, function(*unpack(view)))
        except BaseException as error:  # noqa: BLE001 - see the module's docstring
            return end(error)
        return 0

    return call_wide


def define(
    linker: wasmtime.Linker,
    module: str,
    name: str,
    params: str,
    result: str,
    function: Callable[..., Any],
    state: InvocationState,
    *,
    fault: int | None = None,
    front: Callable[[Any], tuple[Any, int]] | None = None,
) -> None:
    """Make a Python function importable by guests.

    Parameters:
        linker: the linker of the guests.
        module, name: the names by which guests import it.
        params, result: its type, as in `func_type`. Integers arrive unsigned and must be returned so (0 to 2**32 - 1,
            or 2**64 - 1); anything else that is returned is a fault of the host.
        function: called with one argument per parameter. It may raise `GuestEnded` to end the guest; any other
            exception is a fault of the host and ends it too.
        state: the run that the function serves.
        fault: the error number for a pointer outside the guest's memory; None ends the guest instead. Only with
            result `i`.
        front: called with the native callback that would be defined. Returns the one to define in its place, which may
            pass calls on to it, and the address that it is to be given as `env`.

    Raises:
        ValueError: the type cannot be expressed, or a function of that name is defined already.
    """
    if fault is not None and result != "i":
        raise ValueError(f"{module}.{name}: an error number needs a result of type i, not {result!r}")
    kind = _kept_type(linker.engine, params, result)
    native = capi.HostCallback(callback(params, result, function, state, fault=fault))
    state.callbacks.append(native)
    env: int | None = None
    if front is not None:
        native, env = front(native)
        state.callbacks.append(native)
    module_name, function_name = module.encode(), name.encode()
    error = capi.linker_define_func_unchecked(
        capi.address_of(linker),
        module_name,
        len(module_name),
        function_name,
        len(function_name),
        capi.address_of(kind),
        native,
        env,
        None,
    )
    if error:
        raise ValueError(f"{module}.{name} cannot be defined: {capi.take_error(error)}")

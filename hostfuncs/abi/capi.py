"""The part of wasmtime's C API that runs of core modules use. Every pointer is a plain int.

wasmtime-py's own prototypes make a `ctypes.POINTER` object for every pointer that is returned. A wrong argument to any
of these functions can end the process. Therefore only `hostfuncs.abi`, `hostfuncs.wasip2` and `hostfuncs.running` call
them, and each function is used in one place.

The library is opened twice. `PyDLL` keeps the interpreter's lock, which is cheaper, for functions that return at once.
`CDLL` releases the lock wherever guest code may run, so that the deadline thread can run.
"""

import ctypes
from collections.abc import Iterable
from typing import Any, Final

from wasmtime import _ffi as ffi

POINTER: Final = ctypes.c_void_p
SIZE: Final = ctypes.c_size_t
_U64: Final = ctypes.c_uint64
_I64: Final = ctypes.c_int64

_holding = ctypes.PyDLL(ffi.dll._name)
_releasing = ctypes.CDLL(ffi.dll._name)

HostCallback: Final = ctypes.CFUNCTYPE(SIZE, POINTER, POINTER, POINTER, SIZE)
"""`wasmtime_func_unchecked_callback_t`: (env, caller, values, count) -> trap pointer, or 0."""

EpochCallback: Final = ctypes.CFUNCTYPE(SIZE, POINTER, POINTER, POINTER, POINTER)
"""For `wasmtime_store_epoch_deadline_callback`: (context, data, delta out, kind out) -> error pointer, or 0."""

VALUE_BYTES: Final = 16
"""Size of `wasmtime_val_raw_t`."""

EXTERN_BYTES: Final = ctypes.sizeof(ffi.wasmtime_extern_t)
EXTERN_ITEM_OFFSET: Final = ffi.wasmtime_extern_t.of.offset
"""Offset of the handle in a `wasmtime_extern_t`, after its kind byte."""
INSTANCE_BYTES: Final = ctypes.sizeof(ffi.wasmtime_instance_t)

TRAP_INTERRUPT: Final = 10
"""`WASMTIME_TRAP_CODE_INTERRUPT`."""

EXTERN_FUNC: Final = 0
EXTERN_MEMORY: Final = 3


def _declare(library: ctypes.CDLL, name: str, result: Any, *parameters: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = parameters
    return function


store_new = _declare(_holding, "wasmtime_store_new", POINTER, POINTER, POINTER, POINTER)
store_context = _declare(_holding, "wasmtime_store_context", POINTER, POINTER)
store_delete = _declare(_holding, "wasmtime_store_delete", None, POINTER)
store_limiter = _declare(_holding, "wasmtime_store_limiter", None, POINTER, _I64, _I64, _I64, _I64, _I64)
store_epoch_deadline_callback = _declare(
    _holding, "wasmtime_store_epoch_deadline_callback", None, POINTER, POINTER, POINTER, POINTER
)
context_set_epoch_deadline = _declare(_holding, "wasmtime_context_set_epoch_deadline", None, POINTER, _U64)
engine_increment_epoch = _declare(_holding, "wasmtime_engine_increment_epoch", None, POINTER)

instance_pre_instantiate = _declare(
    _releasing, "wasmtime_instance_pre_instantiate", POINTER, POINTER, POINTER, POINTER, POINTER
)
instance_export_get = _declare(
    _holding, "wasmtime_instance_export_get", ctypes.c_bool, POINTER, POINTER, ctypes.c_char_p, SIZE, POINTER
)
func_call_unchecked = _declare(
    _releasing, "wasmtime_func_call_unchecked", POINTER, POINTER, POINTER, POINTER, SIZE, POINTER
)

caller_context = _declare(_holding, "wasmtime_caller_context", POINTER, POINTER)
caller_export_get = _declare(
    _holding, "wasmtime_caller_export_get", ctypes.c_bool, POINTER, ctypes.c_char_p, SIZE, POINTER
)

memory_data = _declare(_holding, "wasmtime_memory_data", POINTER, POINTER, POINTER)
memory_data_size = _declare(_holding, "wasmtime_memory_data_size", SIZE, POINTER, POINTER)

linker_define_func_unchecked = _declare(
    _holding,
    "wasmtime_linker_define_func_unchecked",
    POINTER,
    POINTER,
    ctypes.c_char_p,
    SIZE,
    ctypes.c_char_p,
    SIZE,
    POINTER,
    HostCallback,
    POINTER,
    POINTER,
)

trap_new = _declare(_holding, "wasmtime_trap_new", POINTER, ctypes.c_char_p, SIZE)
trap_new_code = _declare(_holding, "wasmtime_trap_new_code", POINTER, ctypes.c_uint8)
trap_code = _declare(_holding, "wasmtime_trap_code", ctypes.c_bool, POINTER, POINTER)
trap_delete = _declare(_holding, "wasm_trap_delete", None, POINTER)
_trap_message = _declare(_holding, "wasm_trap_message", None, POINTER, POINTER)
error_new = _declare(_holding, "wasmtime_error_new", POINTER, ctypes.c_char_p)
error_delete = _declare(_holding, "wasmtime_error_delete", None, POINTER)
_error_message = _declare(_holding, "wasmtime_error_message", None, POINTER, POINTER)
_byte_vec_delete = _declare(_holding, "wasm_byte_vec_delete", None, POINTER)

_view_from_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_view_from_memory.restype = ctypes.py_object
_view_from_memory.argtypes = (POINTER, ctypes.c_ssize_t, ctypes.c_int)
_PYBUF_WRITE: Final = 0x200


madvise = _declare(ctypes.PyDLL(None), "madvise", ctypes.c_int, POINTER, SIZE, ctypes.c_int)


def view_of(address: int, size: int) -> memoryview:
    """Return a writable view of raw memory.

    It keeps nothing alive: its owner must drop it before the memory is freed.
    """
    view: memoryview = _view_from_memory(address, size, _PYBUF_WRITE)
    return view


def write_u8(address: int, value: int) -> None:
    """Store an 8-bit number through an out parameter."""
    ctypes.c_uint8.from_address(address).value = value


def write_u64(address: int, value: int) -> None:
    """Store a 64-bit number through an out parameter."""
    ctypes.c_uint64.from_address(address).value = value


def callback_address(callback: Any) -> int:
    """Return the address of a callback's machine code. The callback must outlive its use."""
    address = ctypes.cast(callback, POINTER).value
    assert address is not None
    return address


def function_address(function: Any) -> int:
    """Return the address of a function of a loaded library."""
    address = ctypes.cast(function, POINTER).value
    assert address is not None
    return address


def addresses(names: Iterable[str]) -> dict[str, int]:
    """Return the addresses of functions of wasmtime's, by name. For code that calls them without ctypes."""
    return {name: function_address(getattr(_holding, name)) for name in names}


def address_of(managed: Any) -> int:
    """Return the address behind an object of wasmtime-py (Engine, Linker, ...), which must outlive its use."""
    address = ctypes.cast(managed.ptr(), POINTER).value
    assert address is not None
    return address


_TEXT_TAKEN = 64 * 1024
"""Bytes that are read of an error's text, half of them of its end."""


def _take_text(read: Any, pointer: int) -> str:
    vector = ffi.wasm_byte_vec_t()
    address = ctypes.addressof(vector)
    read(pointer, address)
    try:
        if not vector.size:
            return ""
        # The cause is at the end, and where the guest was is at the beginning. Between them are names of the guest's
        # functions, of any length.
        begin = ctypes.addressof(vector.data.contents)
        half = _TEXT_TAKEN // 2
        if vector.size <= _TEXT_TAKEN:
            taken = ctypes.string_at(begin, vector.size)
        else:
            taken = ctypes.string_at(begin, half) + b"\n" + ctypes.string_at(begin + vector.size - half, half)
        return taken.rstrip(b"\0").decode("utf-8", "replace")
    finally:
        _byte_vec_delete(address)


def take_error(pointer: int) -> str:
    """Return the text of a `wasmtime_error_t`, and free it."""
    try:
        return _take_text(_error_message, pointer)
    finally:
        error_delete(pointer)


def take_trap(pointer: int) -> tuple[int | None, str]:
    """Return the code (None for a trap made by the host) and the text of a `wasm_trap_t`, and free it."""
    try:
        code = ctypes.c_uint8()
        known = trap_code(pointer, ctypes.addressof(code))
        return (code.value if known else None), _take_text(_trap_message, pointer)
    finally:
        trap_delete(pointer)

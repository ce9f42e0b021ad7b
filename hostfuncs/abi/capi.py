"""The part of wasmtime's C API that invocations use, with plain pointers.

The stock bindings build a `ctypes.POINTER` object for every pointer that comes back; here a pointer is an int. A wrong
argument to any of these functions can end the process, so nothing outside `hostfuncs.abi` and `sandboxd.worker` calls
them, and each is used in one place only.

Two loads of the same library: `PyDLL` keeps the interpreter lock, which is cheaper and right for accessors that return
at once; `CDLL` releases it, which is needed wherever guest code may run, so that the deadline thread can.
"""

import ctypes
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
"""Of `wasmtime_store_epoch_deadline_callback`: (context, data, delta out, kind out) -> error pointer, or 0."""

VALUE_BYTES: Final = 16
"""Size of `wasmtime_val_raw_t`."""

EXTERN_BYTES: Final = ctypes.sizeof(ffi.wasmtime_extern_t)
EXTERN_ITEM_OFFSET: Final = ffi.wasmtime_extern_t.of.offset
"""Where the handle lies inside a `wasmtime_extern_t`, after its kind byte."""
INSTANCE_BYTES: Final = ctypes.sizeof(ffi.wasmtime_instance_t)

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


def view_of(address: int, size: int) -> memoryview:
    """A writable view of raw memory. It keeps nothing alive: whoever makes it drops it before the memory goes."""
    view: memoryview = _view_from_memory(address, size, _PYBUF_WRITE)
    return view


def write_u8(address: int, value: int) -> None:
    """Store an 8-bit number through an out parameter."""
    ctypes.c_uint8.from_address(address).value = value


def write_u64(address: int, value: int) -> None:
    """Store a 64-bit number through an out parameter."""
    ctypes.c_uint64.from_address(address).value = value


def callback_address(callback: Any) -> int:
    """Where the machine code of a callback is; the callback must outlive its use."""
    address = ctypes.cast(callback, POINTER).value
    assert address is not None
    return address


def address_of(managed: Any) -> int:
    """The address behind a stock wasmtime object (Engine, Linker, ...), which must outlive its use."""
    address = ctypes.cast(managed.ptr(), POINTER).value
    assert address is not None
    return address


def _take_text(read: Any, pointer: int) -> str:
    vector = ffi.wasm_byte_vec_t()
    address = ctypes.addressof(vector)
    read(pointer, address)
    try:
        return ctypes.string_at(vector.data, vector.size).rstrip(b"\0").decode("utf-8", "replace")
    finally:
        _byte_vec_delete(address)


def take_error(pointer: int) -> str:
    """The text of a `wasmtime_error_t`, which is freed."""
    try:
        return _take_text(_error_message, pointer)
    finally:
        error_delete(pointer)


def take_trap(pointer: int) -> tuple[int | None, str]:
    """Trap code (None for one made by the host) and text of a `wasm_trap_t`, which is freed."""
    try:
        code = ctypes.c_uint8()
        known = trap_code(pointer, ctypes.addressof(code))
        return (code.value if known else None), _take_text(_trap_message, pointer)
    finally:
        trap_delete(pointer)

"""The part of wasmtime's C API that components need. Every pointer is a plain address.

wasmtime-py's own prototypes wrap each pointer in an object and add a Python function around each call. A small HTTP
request of a guest makes about forty calls, so that this would be most of a host call's cost. Here an address is an
`int`.

The library is opened twice. Functions that neither run a guest nor block keep the interpreter's lock (`PyDLL`), which
saves releasing and taking it. Functions that run a guest release it, so that the thread that ticks epochs can run.

The layouts are those of `wasmtime/component/val.h` of wasmtime 50 on 64-bit machines. `check_layout` compares them with
the layouts that wasmtime-py was generated from.
"""

import ctypes
from typing import Any, Final

from wasmtime import _ffi as ffi

VAL_SIZE = 32
"""sizeof(wasmtime_component_val_t): the kind in byte 0, the payload from byte 8."""
PAYLOAD = 8
ENTRY_SIZE = 48
"""sizeof(wasmtime_component_valrecord_entry_t): a name of 16 bytes, then a value."""

FUNC_SIZE = 32
"""sizeof(wasmtime_component_func_t)."""
INSTANCE_SIZE = 16
"""sizeof(wasmtime_component_instance_t)."""

_ptr: Final = ctypes.c_void_p
_size: Final = ctypes.c_size_t
_u32: Final = ctypes.c_uint32
_text: Final = ctypes.c_char_p

_holding = ctypes.PyDLL(ffi.dll._name)
_releasing = ctypes.CDLL(ffi.dll._name)


def _declare(library: ctypes.CDLL, name: str, result: Any, *parameters: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = parameters
    return function


HostCallback: Final = ctypes.CFUNCTYPE(_size, _ptr, _ptr, _ptr, _ptr, _size, _ptr, _size)
"""(data, context, type, arguments, argument count, results, result count) -> `wasmtime_error_t` pointer, or 0.

The caller owns the arguments and frees them and all that they hold: a callback only reads them. The caller also takes
ownership of the results that the callback writes.
"""
Destructor: Final = ctypes.CFUNCTYPE(_size, _ptr, _ptr, _u32)
"""(data, context, representation) -> `wasmtime_error_t` pointer, or 0."""

byte_vec_new = _declare(_holding, "wasm_byte_vec_new", None, _ptr, _size, _text)

linker_root = _declare(_holding, "wasmtime_component_linker_root", _ptr, _ptr)
linker_instance_delete = _declare(_holding, "wasmtime_component_linker_instance_delete", None, _ptr)
add_instance = _declare(_holding, "wasmtime_component_linker_instance_add_instance", _ptr, _ptr, _text, _size, _ptr)
add_func = _declare(
    _holding, "wasmtime_component_linker_instance_add_func", _ptr, _ptr, _text, _size, HostCallback, _ptr, _ptr
)
add_resource = _declare(
    _holding,
    "wasmtime_component_linker_instance_add_resource",
    *(_ptr, _ptr, _text, _size, _ptr, Destructor, _ptr, _ptr),
)
resource_type_new = _declare(_holding, "wasmtime_component_resource_type_new_host", _ptr, _u32)
resource_type_delete = _declare(_holding, "wasmtime_component_resource_type_delete", None, _ptr)

instantiate = _declare(_releasing, "wasmtime_component_linker_instantiate", _ptr, _ptr, _ptr, _ptr, _ptr)
instance_get_func = _declare(_holding, "wasmtime_component_instance_get_func", ctypes.c_bool, _ptr, _ptr, _ptr, _ptr)
func_call = _declare(_releasing, "wasmtime_component_func_call", _ptr, _ptr, _ptr, _ptr, _size, _ptr, _size)

vallist_new_uninit = _declare(_holding, "wasmtime_component_vallist_new_uninit", None, _ptr, _size)
valrecord_new_uninit = _declare(_holding, "wasmtime_component_valrecord_new_uninit", None, _ptr, _size)
valtuple_new_uninit = _declare(_holding, "wasmtime_component_valtuple_new_uninit", None, _ptr, _size)
valflags_new_uninit = _declare(_holding, "wasmtime_component_valflags_new_uninit", None, _ptr, _size)
val_new = _declare(_holding, "wasmtime_component_val_new", _ptr, _ptr)
val_delete = _declare(_holding, "wasmtime_component_val_delete", None, _ptr)

resource_host_new = _declare(_holding, "wasmtime_component_resource_host_new", _ptr, ctypes.c_bool, _u32, _u32)
resource_host_delete = _declare(_holding, "wasmtime_component_resource_host_delete", None, _ptr)
resource_host_rep = _declare(_holding, "wasmtime_component_resource_host_rep", _u32, _ptr)
resource_host_type = _declare(_holding, "wasmtime_component_resource_host_type", _u32, _ptr)
resource_host_to_any = _declare(_holding, "wasmtime_component_resource_host_to_any", _ptr, _ptr, _ptr, _ptr)
resource_any_to_host = _declare(_holding, "wasmtime_component_resource_any_to_host", _ptr, _ptr, _ptr, _ptr)
_error_wasm_trace = _declare(_holding, "wasmtime_error_wasm_trace", None, _ptr, _ptr)
_frame_vec_delete = _declare(_holding, "wasm_frame_vec_delete", None, _ptr)


def has_guest_frames(error: int) -> bool:
    """Return whether an error arose while guest code ran."""
    frames = (ctypes.c_uint64 * 2)()
    _error_wasm_trace(error, ctypes.addressof(frames))
    found = bool(frames[0])
    _frame_vec_delete(ctypes.addressof(frames))
    return found


def check_layout() -> None:
    """Compare the layouts assumed here with wasmtime-py's.

    Raises:
        RuntimeError: they differ, so that this build of wasmtime cannot be used.
    """
    union = ffi.wasmtime_component_valunion_t
    val: Any = ffi.wasmtime_component_val_t
    variant: Any = ffi.wasmtime_component_valvariant_t
    result: Any = ffi.wasmtime_component_valresult_t
    vector: Any = ffi.wasmtime_component_vallist_t
    flags: Any = ffi.wasmtime_component_valflags_t
    entry: Any = ffi.wasmtime_component_valrecord_entry_t
    found = (
        ctypes.sizeof(val),
        val.of.offset,
        ctypes.sizeof(entry),
        entry.val.offset,
        ctypes.sizeof(union),
        variant.val.offset,
        result.val.offset,
        vector.data.offset,
        flags.data.offset,
        ctypes.sizeof(ffi.wasmtime_component_func_t),
        ctypes.sizeof(ffi.wasmtime_component_instance_t),
    )
    if found != (VAL_SIZE, PAYLOAD, ENTRY_SIZE, 16, 24, 16, 8, 8, 8, FUNC_SIZE, INSTANCE_SIZE):
        raise RuntimeError(f"component values of this wasmtime are laid out differently: {found}")


check_layout()

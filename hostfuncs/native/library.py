"""The compiled `preview1.c`: finding it, and the record that it shares with Python."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any, Final

from hostfuncs.abi import capi

SOURCE: Final = Path(__file__).with_name("preview1.c")
LIBRARY: Final = Path(__file__).with_name("_preview1.so")

FUNCTIONS: Final = (
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_fdstat_get",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_read",
    "fd_seek",
    "fd_write",
    "proc_exit",
    "random_get",
    "sched_yield",
)
"""The functions of preview 1 that it has."""

WASMTIME: Final = (
    "wasmtime_store_new",
    "wasmtime_store_context",
    "wasmtime_store_limiter",
    "wasmtime_store_epoch_deadline_callback",
    "wasmtime_context_set_epoch_deadline",
    "wasmtime_instance_pre_instantiate",
    "wasmtime_instance_export_get",
    "wasmtime_func_call_unchecked",
    "wasmtime_memory_data",
    "wasmtime_memory_data_size",
    "wasmtime_trap_new_code",
    "wasmtime_trap_code",
    "wasm_trap_trace",
    "wasm_frame_func_index",
    "wasm_frame_module_offset",
    "wasm_frame_vec_delete",
    "wasm_trap_delete",
    "wasmtime_store_delete",
)
"""The functions of wasmtime that it calls: the first fields of `Record`."""

_U64: Final = ctypes.c_uint64


def _fields(*names: str) -> list[tuple[str, Any]]:
    return [(name, _U64) for name in names]


class Buffer(ctypes.Structure):
    """`struct buffer` of preview1.c."""

    _fields_ = _fields("bytes", "used", "room")


_FRAMES: Final = 32


class Place(ctypes.Structure):
    """`struct place` of preview1.c."""

    _fields_ = [("bytes", _U64), ("code", _U64), ("frames", _U64 * (2 * _FRAMES))]


class Record(ctypes.Structure):
    """`struct run` of preview1.c, which says what the fields mean. Pointers are numbers."""

    _fields_ = [
        *_fields(*WASMTIME),
        *_fields("engine", "pre", "epoch_callback"),
        *_fields("memory_limit", "elements_limit", "instances_limit", "tables_limit", "memories_limit"),
        *_fields("has_start", "stdout_limit", "stderr_limit"),
        *_fields("system_sources", "realtime_resolution", "monotonic_resolution", "rights_stdin", "rights_output"),
        *_fields("active", "instantiated_ns", "memory_bytes"),
        ("out", Buffer),
        *_fields("stderr_total"),
        ("err", Buffer),
        *_fields("stdin_at", "stands", "exited", "exit_code", "store", "error", "trap"),
        ("place", Place),
        ("private", _U64 * (7 + 2 + 4 + 4 + 1)),
    ]


class Function(ctypes.Structure):
    """`struct function` of preview1.c."""

    _fields_ = _fields("run", "reference")


class Library:
    """The loaded library.

    Parameters:
        path: of the shared object.

    Raises:
        OSError: it cannot be loaded.
        ValueError: it was not built from `preview1.c` as it is here.
    """

    def __init__(self, path: Path) -> None:
        # Guest code runs in `run`, so that the interpreter's lock is released there. The others return at once.
        releasing, holding = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
        self._check(releasing)
        self.run = releasing.hostfuncs_native_run
        self.run.restype = ctypes.c_int
        self.run.argtypes = (capi.POINTER, *(ctypes.c_char_p, _U64) * 3)
        self.delete = holding.hostfuncs_native_delete
        self.trim = holding.hostfuncs_native_trim
        for function in (self.delete, self.trim):
            function.restype = None
            function.argtypes = (capi.POINTER,)
        self.functions = {
            name: capi.function_address(getattr(holding, f"hostfuncs_native_{name}")) for name in FUNCTIONS
        }
        """Addresses by name, of `wasmtime_func_unchecked_callback_t`."""
        self.wasmtime = capi.addresses(WASMTIME)

    @staticmethod
    def _check(library: ctypes.CDLL) -> None:
        try:
            built_from = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, "hostfuncs_native_source")))
            size = _U64.in_dll(library, "hostfuncs_native_run_bytes").value
        except ValueError as error:
            raise ValueError(f"it is another library: {error}") from None
        if built_from != digest().encode():
            raise ValueError("it was built from another preview1.c; install the package again")
        if size != ctypes.sizeof(Record):
            raise ValueError(f"its record has {size} bytes, and not {ctypes.sizeof(Record)}")

    def __repr__(self) -> str:
        return f"<Library functions={len(self.functions)}>"


def digest() -> str:
    """Return the digest of the source, by which a library is known that was built from another one."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def load() -> Library:
    """Return the library that was built when the package was installed.

    Raises:
        OSError, ValueError: as Library.
    """
    return Library(LIBRARY)


@functools.cache
def find() -> Library | None:
    """Return the library; None where it was not built, does not load here, or is out of date."""
    try:
        return load()
    except (OSError, ValueError):
        return None

"""Check that a thread has enough stack left to compile or run a guest, and that it runs no guest already."""

import contextlib
import ctypes
import platform
import sys
import threading
from collections.abc import Iterator

from hostfuncs.limits import KIB

_libc = ctypes.CDLL(None)
_libc.pthread_self.restype = ctypes.c_void_p
_libc.pthread_getattr_np.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.pthread_attr_getstack.argtypes = (
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.POINTER(ctypes.c_size_t),
)
_libc.pthread_attr_destroy.argtypes = (ctypes.c_void_p,)
_ATTRIBUTES_BYTES = 128
"""More than sizeof(pthread_attr_t) of glibc and musl, which is 56."""
_STACK_POINTER_OFFSETS = {"x86_64": 160, "aarch64": 432}
"""The offset of the stack pointer in Linux's ucontext_t."""
_CONTEXT_BYTES = 8192
"""More than sizeof(ucontext_t), which is 968 and 4560."""
_CALLER_BYTES = 512 * KIB
"""The stack that the caller may have used already, as a part of the stack that a run needs."""


class _Thread(threading.local):
    """Facts about the current thread."""

    stack: tuple[int, int] | None = None
    """The lowest address of its stack, and the size; zeros if the system does not tell."""
    running = False


_thread = _Thread()


def _stack() -> tuple[int, int]:
    """Return the lowest address of the current thread's stack, and its size; zeros if the system does not tell."""
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    lowest, size = ctypes.c_size_t(), ctypes.c_size_t()
    if _libc.pthread_getattr_np(_libc.pthread_self(), attributes):
        return 0, 0
    _libc.pthread_attr_getstack(attributes, ctypes.byref(lowest), ctypes.byref(size))
    _libc.pthread_attr_destroy(attributes)
    return lowest.value, size.value


def _stack_pointer() -> int:
    """Return an address near the top of the current thread's stack; 0 if it cannot be found on this machine.

    getcontext(3) stores it. glibc has that function, musl does not. A callback from C would be portable. But callbacks
    that get an address on the stack, such as that of dl_iterate_phdr(3), run while a lock of the loader is held.
    """
    offset = _STACK_POINTER_OFFSETS.get(platform.machine())
    if offset is None or not hasattr(_libc, "getcontext"):
        return 0
    context = ctypes.create_string_buffer(_CONTEXT_BYTES)
    if _libc.getcontext(context):
        return 0
    return int.from_bytes(context.raw[offset : offset + 8], sys.byteorder)


def check(needed_bytes: int) -> None:
    """Check the current thread's stack. A compiler or a guest that overflowed it would end the process.

    Parameters:
        needed_bytes: the stack that the guest and the host need.

    Raises:
        RuntimeError: the thread's stack is smaller, or is nearly used up.
    """
    if _thread.stack is None:
        _thread.stack = _stack()
    lowest, size = _thread.stack
    if size and size < needed_bytes:
        raise RuntimeError(
            f"this thread's stack of {size // KIB} KiB is too small for guests, which need "
            f"{needed_bytes // KIB} KiB; call threading.stack_size({needed_bytes}) before the thread is made, or raise "
            "the limit (ulimit -s)"
        )
    left = _stack_pointer() - lowest
    if 0 < left < min(size, needed_bytes - _CALLER_BYTES):
        raise RuntimeError(
            f"only {left // KIB} KiB of this thread's stack are left, and guests need "
            f"{(needed_bytes - _CALLER_BYTES) // KIB} KiB; use another thread, or do it before the recursion"
        )


@contextlib.contextmanager
def entered(needed_bytes: int) -> Iterator[None]:
    """Mark the current thread as running a guest.

    Parameters: as for `check`.

    Raises:
        RuntimeError: as for `check`, or the thread runs a guest already.
    """
    if _thread.running:
        raise RuntimeError("this thread is within the run of a guest already; use another thread")
    check(needed_bytes)
    try:
        _thread.running = True
        yield
    finally:
        _thread.running = False

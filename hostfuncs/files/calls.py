"""System calls that Python lacks: openat2(2), and utimensat(2) on a descriptor.

Source: openat2(2), utimensat(2); Linux, include/uapi/linux/openat2.h.
"""

import ctypes
import errno
import functools
import os
import platform
import struct
from typing import Final

_OPENAT2: Final = 437
"""The number is the same on every machine."""
_UTIMENSAT: Final = {"x86_64": 280}.get(platform.machine(), 88)

_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
_AT_EMPTY_PATH: Final = 0x1000
_UTIME_OMIT: Final = (1 << 30) - 2
_NS: Final = 1_000_000_000
_TRIES: Final = 64
"""The most attempts of a look-up that renames elsewhere in the system disturb."""

_times = struct.Struct("=qqqq").pack
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
# With declared types, a call takes half the time. Guests open files by the thousand.
_openat2 = ctypes.CFUNCTYPE(
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    use_errno=True,
)(("syscall", _libc))


@functools.cache
def _how(flags: int, mode: int) -> bytes:
    """Return a `struct open_how`. There are some hundreds of different ones."""
    return struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)


def open_beneath(folder: int, path: bytes, flags: int, mode: int = 0) -> int:
    """Open a path beneath a folder. It cannot leave the folder by `..`, by a link, through /proc, or during a rename.

    Parameters:
        folder: the descriptor of the folder.
        path: a relative path without NUL.
        flags: the flags of openat2; O_CLOEXEC is added.
        mode: the mode of a file that is created.

    Returns:
        a new descriptor.

    Raises:
        OSError: EPERM if the path leads out; otherwise the kernel's error.
    """
    how = _how(flags, mode)
    for _ in range(_TRIES):
        found: int = _openat2(_OPENAT2, folder, path, how, 24)
        if found >= 0:
            return found
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    if number == errno.EXDEV:
        number = errno.EPERM
    raise OSError(number, "openat2")


def set_times(descriptor: int, accessed_ns: int | None, modified_ns: int | None) -> None:
    """Set the times of a descriptor's file, even if it was opened with O_PATH. None leaves a time as it is.

    Raises:
        OSError: the kernel refused.
    """
    packed = _times(*_split(accessed_ns), *_split(modified_ns))
    if _syscall(_UTIMENSAT, descriptor, b"", packed, _AT_EMPTY_PATH) < 0:
        raise OSError(ctypes.get_errno(), "utimensat")


def _split(time_ns: int | None) -> tuple[int, int]:
    return (0, _UTIME_OMIT) if time_ns is None else divmod(time_ns, _NS)


def available() -> bool:
    """Return whether the kernel has openat2 (Linux 5.6) and lets this process use it."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(open_beneath(root, b".", os.O_PATH))
    except OSError:
        return False
    finally:
        os.close(root)
    return True

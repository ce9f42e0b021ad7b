"""Sets the C library's allocator of a process."""

import ctypes
from typing import Final

# glibc's malloc.h; mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_LARGE: Final = 1 << 20
"""Blocks of this many bytes or more are given back to the system as soon as they are free."""


def return_large_blocks() -> bool:
    """Give large blocks back to the system as soon as they are free.

    By default, glibc raises its threshold to the size of the largest block that was freed, up to 32 MiB. It keeps twice
    as much at the top of its heap. After one large body a process would then take all others from the heap, and a small
    block behind them keeps their memory for ever. A threshold that is set stays.

    Returns:
        whether this C library has the option. musl has not; it gives back blocks of 128 KiB and more in any case.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGE))

"""`filestat` records, and the times that `fstflags` ask for.

Source: WASI snapshot-01, typenames.witx.
"""

import errno as host_errno

from hostfuncs.files.base import MAX_OFFSET, Stat
from hostfuncs.wasip1 import descriptors
from hostfuncs.wasip1.errno import SUCCESS
from hostfuncs.wasip1.program import Program

_ATIM, _ATIM_NOW, _MTIM, _MTIM_NOW = 1, 2, 4, 8


def new_times(program: Program, atim: int, mtim: int, flags: int) -> tuple[int | None, int | None]:
    """Return the times that `fstflags` ask for; None leaves one. Raises EINVAL for flags that contradict each other."""
    if (
        flags & ~(_ATIM | _ATIM_NOW | _MTIM | _MTIM_NOW)
        or flags & (_ATIM | _ATIM_NOW) == _ATIM | _ATIM_NOW
        or flags & (_MTIM | _MTIM_NOW) == _MTIM | _MTIM_NOW
    ):
        raise OSError(host_errno.EINVAL, "the flags contradict each other")
    now = program.sources.realtime() if flags & (_ATIM_NOW | _MTIM_NOW) else 0
    if max(atim if flags & _ATIM else 0, mtim if flags & _MTIM else 0) > MAX_OFFSET:
        raise OSError(host_errno.EINVAL, "the time lies too far ahead")
    accessed = atim if flags & _ATIM else now if flags & _ATIM_NOW else None
    modified = mtim if flags & _MTIM else now if flags & _MTIM_NOW else None
    return accessed, modified


def write_stat(program: Program, stat: int, found: Stat) -> int:
    """Write a `filestat`."""
    program.memory.pack(descriptors.FILESTAT, stat, *found)
    return SUCCESS

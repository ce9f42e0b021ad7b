"""The state of a file, by which a change of its content is noticed without reading it."""

import os
from typing import Final

FileState = tuple[int, int, int, int]
"""Device and inode in one number, times of modification and of the last change in ns, size. Tools that set the time of
modification, and writes that keep the size, change the other time."""

SETTLED_NS: Final = 2_000_000_000
"""A file that changed less than this before it was read may change again within the same tick of its file system's
clock, and then has the same state. Two seconds are the coarsest tick, that of FAT."""


def state_of(status: os.stat_result) -> FileState:
    """Return the state of a file."""
    return (status.st_dev << 64 | status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def is_settled(state: FileState, now_ns: int) -> bool:
    """Return whether any later change of the file changes its state, too.

    Parameters:
        state: of the file, taken before it was read.
        now_ns: the wall-clock time at which the state was taken.
    """
    _, modified, changed, _ = state
    return now_ns - max(modified, changed) >= SETTLED_NS

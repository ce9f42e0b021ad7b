"""Open files of the host, and the attributes of files as guests see them."""

import errno
import os
import stat as modes
from collections.abc import Callable, Sequence
from typing import Final

from hostfuncs.files import base
from hostfuncs.files.base import File, Kind, Stat
from hostfuncs.files.calls import set_times
from hostfuncs.files.quota import Quota

FIXED_NS: Final = 1_640_995_200_000_000_000
"""All times in the strict sandbox: 2022-01-01, where wazero's clock begins without the host's."""

_KINDS: Final = {
    modes.S_IFREG: Kind.REGULAR_FILE,
    modes.S_IFDIR: Kind.DIRECTORY,
    modes.S_IFLNK: Kind.SYMBOLIC_LINK,
    modes.S_IFCHR: Kind.CHARACTER_DEVICE,
    modes.S_IFBLK: Kind.BLOCK_DEVICE,
    modes.S_IFSOCK: Kind.SOCKET_STREAM,
}
_ADVICE: Final = (
    os.POSIX_FADV_NORMAL,
    os.POSIX_FADV_SEQUENTIAL,
    os.POSIX_FADV_RANDOM,
    os.POSIX_FADV_WILLNEED,
    os.POSIX_FADV_DONTNEED,
    os.POSIX_FADV_NOREUSE,
)
"""The values of posix_fadvise(2), in the order of WASI's `advice`."""


def attributes(found: os.stat_result, strict: bool) -> Stat:
    """Return the attributes that a guest sees.

    Parameters:
        found: the result of fstat(2).
        strict: whether times are fixed, and inode numbers are 0.
    """
    kind = _KINDS.get(modes.S_IFMT(found.st_mode), Kind.UNKNOWN)
    if strict:
        size = found.st_size if kind is Kind.REGULAR_FILE else 0
        return Stat(0, 0, kind, 1, size, FIXED_NS, FIXED_NS, FIXED_NS)
    return Stat(
        found.st_dev,
        found.st_ino,
        kind,
        found.st_nlink,
        found.st_size,
        max(found.st_atime_ns, 0),
        max(found.st_mtime_ns, 0),
        max(found.st_ctime_ns, 0),
    )


def read_only() -> OSError:
    """Return the error for a change in a read-only mount."""
    return OSError(errno.EROFS, "the mount is read-only")


class HostFile(File):
    """An open file of the host.

    Parameters:
        descriptor: its descriptor, which this object closes.
        how: the flags with which it was opened.
        quota: counts the bytes that are written.
        read_only: whether it is in a read-only mount. Its times cannot be set then.
        strict: whether times are fixed, and the inode number is 0.
    """

    __slots__ = ("_append", "_descriptor", "_end", "_quota", "_read_only", "_strict")

    def __init__(self, descriptor: int, how: int, quota: Quota, *, read_only: bool, strict: bool) -> None:
        self._descriptor = descriptor
        self._read_only = read_only
        self.how = how
        self._quota = quota
        self._strict = strict
        self._append = bool(how & base.APPEND)
        self._end = 0  # the file is known to be at least this long

    def __repr__(self) -> str:
        return f"<HostFile {self._descriptor}>"

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """See File."""
        return os.preadv(self._descriptor, views, offset)

    def write(self, views: Sequence[memoryview], offset: int) -> int:
        """See File."""
        quota = self._quota
        wanted = sum(map(len, views))
        # The gap between the end and the offset becomes part of the file, even if it takes no space on the device.
        gap = max(0, offset - self.size()) if offset > self._end and wanted and not self._append else 0
        quota.take(gap)
        granted = written = 0
        try:
            granted = quota.grant(wanted)
            if granted < wanted:
                views = _first(views, granted)
            written = os.pwritev(self._descriptor, views, offset)
        finally:
            quota.bytes_left += granted - written
            if not written:
                quota.bytes_left += gap
        if not self._append:
            self._end = max(self._end, offset + written)
        return written

    def size(self) -> int:
        """See File."""
        return os.fstat(self._descriptor).st_size

    def truncate(self, size: int) -> None:
        """See File."""
        self._grow(max(0, size - self.size()), lambda: os.ftruncate(self._descriptor, size))
        self._end = min(self._end, size)

    def allocate(self, offset: int, size: int) -> None:
        """See File."""
        # All of it is counted: a part within the file may have no space on the device yet.
        growth = max(size, offset + size - self.size())
        self._grow(growth, lambda: os.posix_fallocate(self._descriptor, offset, size))

    def _grow(self, growth: int, call: Callable[[], None]) -> None:
        self._quota.take(growth)
        try:
            call()
        except OSError:
            self._quota.bytes_left += growth
            raise

    def advise(self, offset: int, size: int, advice: int) -> None:
        """See File."""
        os.posix_fadvise(self._descriptor, offset, size, _ADVICE[advice])

    def sync(self, *, data_only: bool) -> None:
        """See File."""
        if data_only:
            os.fdatasync(self._descriptor)
        else:
            os.fsync(self._descriptor)

    def set_append(self, append: bool) -> None:
        """See File."""
        import fcntl

        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        flags = flags | os.O_APPEND if append else flags & ~os.O_APPEND
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags)
        self._append = append

    def stat(self) -> Stat:
        """See File."""
        return attributes(os.fstat(self._descriptor), self._strict)

    def set_times(self, accessed_ns: int | None, modified_ns: int | None) -> None:
        """See File."""
        if self._read_only:
            # The kernel would allow it to the file's owner: futimens(3) needs no descriptor that is open for writing.
            raise read_only()
        set_times(self._descriptor, accessed_ns, modified_ns)

    def close(self) -> None:
        """See File."""
        os.close(self._descriptor)


def _first(views: Sequence[memoryview], size: int) -> list[memoryview]:
    """Return the first `size` bytes of some buffers."""
    found = []
    for view in views:
        found.append(view[:size])
        size -= len(found[-1])
    return found

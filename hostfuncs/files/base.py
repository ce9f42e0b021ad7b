"""What a file and a folder can do, wherever they are kept, and how opening one is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, Literal, NamedTuple

READ: Final = 1 << 0
WRITE: Final = 1 << 1
CREATE: Final = 1 << 2
EXCLUSIVE: Final = 1 << 3
TRUNCATE: Final = 1 << 4
DIRECTORY: Final = 1 << 5
FOLLOW: Final = 1 << 6
APPEND: Final = 1 << 7
SYNC: Final = 1 << 8
DSYNC: Final = 1 << 9
"""How to open: a sum of these."""

MAX_OFFSET: Final = (1 << 63) - 1
"""The greatest offset in a file."""


class Kind(IntEnum):
    """Types of files, by WASI preview 1's numbers (`filetype` in typenames.witx)."""

    UNKNOWN = 0
    BLOCK_DEVICE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_DGRAM = 5
    SOCKET_STREAM = 6
    SYMBOLIC_LINK = 7


class Stat(NamedTuple):
    """The attributes of a file. Times are nanoseconds since 1970-01-01 UTC."""

    device: int
    inode: int
    kind: Kind
    links: int
    size: int
    accessed_ns: int
    modified_ns: int
    changed_ns: int


class Entry(NamedTuple):
    """One name in a folder."""

    name: bytes
    kind: Kind
    inode: int


class File(ABC):
    """An open regular file. It has no position: the ABIs keep one where theirs has one."""

    __slots__ = ("how",)

    is_file: Literal[True] = True
    """Tells it from a folder, in less time than isinstance takes with an abstract class."""
    how: int
    """How it was opened."""

    @abstractmethod
    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill buffers from an offset on. Gives back the number of bytes; 0 is the end.

        Raises EBADF if it was opened for writing only.
        """

    @abstractmethod
    def write(self, views: Sequence[memoryview], offset: int) -> int:
        """Write at an offset, or at the end if the file was opened so. Gives back the number of bytes written.

        What an offset beyond the end leaves unwritten counts as written. Raises EDQUOT or ENOSPC if not one byte fits;
        fewer are written if only some do. Raises EBADF if it was not opened for writing.
        """

    @abstractmethod
    def size(self) -> int:
        """Return its length in bytes."""

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Make it `size` bytes long."""

    @abstractmethod
    def allocate(self, offset: int, size: int) -> None:
        """Make it at least `offset + size` bytes long, with room for them."""

    @abstractmethod
    def advise(self, offset: int, size: int, advice: int) -> None:
        """Take a hint: posix_fadvise's, by WASI's numbers."""

    @abstractmethod
    def sync(self, *, data_only: bool) -> None:
        """Wait until what was written is kept."""

    @abstractmethod
    def set_append(self, append: bool) -> None:
        """Have writes go to the end from now on, or to their offset."""

    @abstractmethod
    def stat(self) -> Stat:
        """Return its attributes."""

    @abstractmethod
    def set_times(self, accessed_ns: int | None, modified_ns: int | None) -> None:
        """Set times; None leaves one."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it. Only once."""


class Folder(ABC):
    """An open folder. Paths are relative to it and cannot lead out of it; see `Quota.check_path`.

    Every method raises OSError as the system call of its name would: EPERM for a path that leads out, EROFS for a
    change in a folder that is read-only.
    """

    __slots__ = ("read_only",)

    is_file: Literal[False] = False
    read_only: bool

    @abstractmethod
    def open(self, path: bytes, how: int) -> "File | Folder":
        """Open a file or folder. EACCES for anything else, such as a device or a pipe."""

    @abstractmethod
    def stat(self, path: bytes, *, follow: bool) -> Stat:
        """Return the attributes of what a path names."""

    @abstractmethod
    def own_stat(self) -> Stat:
        """Return the folder's own attributes."""

    @abstractmethod
    def set_times(self, path: bytes, accessed_ns: int | None, modified_ns: int | None, *, follow: bool) -> None:
        """Set the times of what a path names; None leaves one."""

    @abstractmethod
    def make_folder(self, path: bytes) -> None:
        """Make a folder."""

    @abstractmethod
    def remove_folder(self, path: bytes) -> None:
        """Remove an empty folder."""

    @abstractmethod
    def unlink(self, path: bytes) -> None:
        """Remove a name that is no folder's."""

    @abstractmethod
    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link. EPERM for an absolute target."""

    @abstractmethod
    def read_link(self, path: bytes) -> bytes:
        """Return the target of a symbolic link."""

    @abstractmethod
    def link(self, path: bytes, to: "Folder", new: bytes) -> None:
        """Give a file a second name. EXDEV if `to` is kept elsewhere, EROFS if either cannot be changed."""

    @abstractmethod
    def rename(self, path: bytes, to: "Folder", new: bytes) -> None:
        """Move a name. EXDEV if `to` is kept elsewhere, EROFS if either cannot be changed."""

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Return its entries without `.` and `..`. EOVERFLOW if there are more than may be listed."""

    @abstractmethod
    def sync(self) -> None:
        """Wait until its entries are kept."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it. Only once."""

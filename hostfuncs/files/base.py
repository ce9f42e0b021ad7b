"""The interfaces of open files and folders, and the flags with which they are opened."""

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
"""The flags for opening. They are added up."""

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
    """An open regular file. It has no position; an ABI whose files have one keeps it."""

    __slots__ = ("how",)

    is_file: Literal[True] = True
    """Distinguishes it from a folder, in less time than isinstance takes with an abstract class."""
    how: int
    """The flags with which it was opened."""

    @abstractmethod
    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Fill buffers with the bytes from an offset on. Return their number; 0 at the end of the file.

        Raises EBADF if the file was opened for writing only.
        """

    @abstractmethod
    def write(self, views: Sequence[memoryview], offset: int) -> int:
        """Write at an offset, or at the end if the file is in append mode. Return the number of bytes written.

        The gap before an offset beyond the end counts as written. If only some bytes fit, those are written. Raises
        EDQUOT or ENOSPC if no byte fits, and EBADF if the file was not opened for writing.
        """

    @abstractmethod
    def size(self) -> int:
        """Return its length in bytes."""

    @abstractmethod
    def truncate(self, size: int) -> None:
        """Make it `size` bytes long."""

    @abstractmethod
    def allocate(self, offset: int, size: int) -> None:
        """Make it at least `offset + size` bytes long, and reserve the space for the `size` bytes."""

    @abstractmethod
    def advise(self, offset: int, size: int, advice: int) -> None:
        """Take a hint about later reads. See posix_fadvise(2).

        Parameters:
            offset, size: the part of the file, in bytes.
            advice: the hint, by WASI's number.
        """

    @abstractmethod
    def sync(self, *, data_only: bool) -> None:
        """Wait until all writes are on the storage device."""

    @abstractmethod
    def set_append(self, append: bool) -> None:
        """Switch append mode on or off: whether writes go to the end of the file."""

    @abstractmethod
    def stat(self) -> Stat:
        """Return its attributes."""

    @abstractmethod
    def set_times(self, accessed_ns: int | None, modified_ns: int | None) -> None:
        """Set the times of access and modification; None leaves one as it is."""

    @abstractmethod
    def close(self) -> None:
        """Close it. It must be called only once."""


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
        """Open a file or folder. Raises EACCES for anything else, such as a device or a pipe."""

    @abstractmethod
    def stat(self, path: bytes, *, follow: bool) -> Stat:
        """Return the attributes of what a path names. `follow` follows a symbolic link at its end."""

    @abstractmethod
    def own_stat(self) -> Stat:
        """Return the folder's own attributes."""

    @abstractmethod
    def set_times(self, path: bytes, accessed_ns: int | None, modified_ns: int | None, *, follow: bool) -> None:
        """Set the times of what a path names; None leaves one as it is."""

    @abstractmethod
    def make_folder(self, path: bytes) -> None:
        """Make a folder."""

    @abstractmethod
    def remove_folder(self, path: bytes) -> None:
        """Remove an empty folder."""

    @abstractmethod
    def unlink(self, path: bytes) -> None:
        """Remove the name of a file or a symbolic link."""

    @abstractmethod
    def symlink(self, target: bytes, path: bytes) -> None:
        """Make a symbolic link. Raises EPERM for an absolute target."""

    @abstractmethod
    def read_link(self, path: bytes) -> bytes:
        """Return the target of a symbolic link."""

    @abstractmethod
    def link(self, path: bytes, to: "Folder", new: bytes) -> None:
        """Give a file a second name. Raises EXDEV if `to` is of another kind, EROFS if either folder is read-only."""

    @abstractmethod
    def rename(self, path: bytes, to: "Folder", new: bytes) -> None:
        """Move a name. Raises EXDEV if `to` is of another kind, EROFS if either folder is read-only."""

    @abstractmethod
    def entries(self) -> list[Entry]:
        """Return its entries without `.` and `..`. Raises EOVERFLOW if there are more than may be listed."""

    @abstractmethod
    def sync(self) -> None:
        """Wait until its entries are on the storage device."""

    @abstractmethod
    def close(self) -> None:
        """Close it. It must be called only once."""

"""What one run may still do with files: bytes, entries, open files. A limit that is reached is remembered."""

import errno

from hostfuncs.limits import Limit, Limits


class Quota:
    """The quotas of one run.

    Parameters:
        limits: of the run.
    """

    __slots__ = ("_limits", "bytes_left", "entries_left", "listing_left", "opened", "path_bytes", "reached")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.path_bytes = limits.path_bytes
        """The longest path."""
        self.bytes_left = limits.file_write_bytes
        """What may still be written to mounts. Bytes; growing a file counts as writing."""
        self.entries_left = limits.file_entries
        """How many files, folders and links may still be made in mounts."""
        self.listing_left = limits.directory_entries
        """How many entries the listings may still have that are held for the guest. Whoever holds one counts it."""
        self.opened = 0
        """The number of files and folders that the guest has open."""
        self.reached: Limit | None = None
        """The last limit that the guest was refused something for."""

    def __repr__(self) -> str:
        return f"<Quota open={self.opened} bytes_left={self.bytes_left} entries_left={self.entries_left}>"

    def refuse(self, limit: Limit, number: int) -> OSError:
        """Remember a limit. Gives back the error for the guest."""
        self.reached = limit
        return OSError(number, f"the limit {limit} is reached")

    def open(self) -> None:
        """Count one more open file. Raises EMFILE."""
        if self.opened >= self._limits.open_files:
            raise self.refuse(Limit.OPEN_FILES, errno.EMFILE)
        self.opened += 1

    def grant(self, size: int) -> int:
        """Take bytes for a write: all that are asked for, or those that are left. Raises EDQUOT if none are."""
        granted = min(size, self.bytes_left)
        if size and not granted:
            raise self.refuse(Limit.FILE_WRITE_BYTES, errno.EDQUOT)
        self.bytes_left -= granted
        return granted

    def take(self, size: int) -> None:
        """Take bytes, all or none. Raises EDQUOT."""
        if size > self.bytes_left:
            raise self.refuse(Limit.FILE_WRITE_BYTES, errno.EDQUOT)
        self.bytes_left -= size

    def enter(self) -> None:
        """Count one more entry. Raises EDQUOT."""
        if not self.entries_left:
            raise self.refuse(Limit.FILE_ENTRIES, errno.EDQUOT)
        self.entries_left -= 1

    def check_listing(self, entries: int) -> None:
        """Raise EOVERFLOW if a folder has too many entries to be listed beside what the guest lists already."""
        if entries > self.listing_left:
            raise self.refuse(Limit.DIRECTORY_ENTRIES, errno.EOVERFLOW)

    def check_length(self, length: int) -> None:
        """Raise ENAMETOOLONG if a path of so many bytes is too long."""
        if length > self._limits.path_bytes:
            raise self.refuse(Limit.PATH_BYTES, errno.ENAMETOOLONG)

    def check_path(self, path: bytes) -> bytes:
        """Return a path that can be looked up in a folder.

        Raises:
            OSError: EPERM for an absolute path, ENOENT for an empty one, EINVAL for one with a NUL character,
                ENAMETOOLONG for one that is too long.
        """
        if len(path) > self.path_bytes:
            self.check_length(len(path))
        if not path:
            raise OSError(errno.ENOENT, "the path is empty")
        if path[0] == 0x2F:
            raise OSError(errno.EPERM, "the path is absolute")
        if b"\0" in path:
            raise OSError(errno.EINVAL, "the path contains a NUL character")
        return path

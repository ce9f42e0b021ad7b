"""Counts what one run does with files against its limits: bytes, entries, open files."""

import errno

from hostfuncs.limits import Limit, Limits


class Quota:
    """The quotas of one run.

    Parameters:
        limits: the limits of the run.
    """

    __slots__ = ("_limits", "bytes_left", "entries_left", "listing_left", "opened", "path_bytes", "reached")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.path_bytes = limits.path_bytes
        """The longest path."""
        self.bytes_left = limits.file_write_bytes
        """The bytes that may still be written to mounts. Growing a file counts as writing."""
        self.entries_left = limits.file_entries
        """The number of files, folders and links that may still be made in mounts."""
        self.listing_left = limits.directory_entries
        """The entries that further listings may have. The ABI that holds a listing counts its entries here."""
        self.opened = 0
        """The number of files and folders that the guest has open."""
        self.reached: Limit | None = None
        """The limit that refused the guest something last; None if none did."""

    def __repr__(self) -> str:
        return f"<Quota open={self.opened} bytes_left={self.bytes_left} entries_left={self.entries_left}>"

    def refuse(self, limit: Limit, number: int) -> OSError:
        """Record that a limit is reached. Return the error for the guest.

        Parameters:
            limit: the limit.
            number: the errno.
        """
        self.reached = limit
        return OSError(number, f"the limit {limit} is reached")

    def open(self) -> None:
        """Count one more open file. Raises EMFILE."""
        if self.opened >= self._limits.open_files:
            raise self.refuse(Limit.OPEN_FILES, errno.EMFILE)
        self.opened += 1

    def grant(self, size: int) -> int:
        """Take `size` bytes for a write, or those that are left. Return their number. Raises EDQUOT if none is left."""
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
        """Raise EOVERFLOW if a folder has too many entries to be listed beside the present listings."""
        if entries > self.listing_left:
            raise self.refuse(Limit.DIRECTORY_ENTRIES, errno.EOVERFLOW)

    def check_length(self, length: int) -> None:
        """Raise ENAMETOOLONG if a path of `length` bytes is too long."""
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

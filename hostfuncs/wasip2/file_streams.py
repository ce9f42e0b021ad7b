"""Descriptors of wasi:filesystem, the streams on them, and the error codes that Linux's numbers become."""

import contextlib
import errno
from typing import Final

from hostfuncs.account import HANDLE_BYTES
from hostfuncs.files import File, Folder
from hostfuncs.files.base import Entry as FolderEntry
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_streams import READ_MAX, Closed, Failed, InputStream, NeverStuck, OutputStream
from hostfuncs.wasip2.table import Entry, resource

PERMIT: Final = 65_536
"""Bytes that one write may have."""
_ENTRY_BYTES: Final = 150
"""The bytes that an entry of a listing costs beyond its name."""

CODES: Final = {
    errno.EACCES: "access",
    errno.EAGAIN: "would-block",
    errno.EBADF: "bad-descriptor",
    errno.EBUSY: "busy",
    errno.EDQUOT: "quota",
    errno.EEXIST: "exist",
    errno.EFBIG: "file-too-large",
    errno.EILSEQ: "illegal-byte-sequence",
    errno.EINTR: "interrupted",
    errno.EINVAL: "invalid",
    errno.EISDIR: "is-directory",
    errno.ELOOP: "loop",
    # WASI 0.2 has no code for too many open files.
    errno.EMFILE: "insufficient-memory",
    errno.EMLINK: "too-many-links",
    errno.ENAMETOOLONG: "name-too-long",
    errno.ENFILE: "insufficient-memory",
    errno.ENODEV: "no-device",
    errno.ENOENT: "no-entry",
    errno.ENOMEM: "insufficient-memory",
    errno.ENOSPC: "insufficient-space",
    errno.ENOTDIR: "not-directory",
    errno.ENOTEMPTY: "not-empty",
    errno.EOPNOTSUPP: "unsupported",
    errno.ENOSYS: "unsupported",
    errno.ENXIO: "no-such-device",
    errno.EOVERFLOW: "overflow",
    errno.EPERM: "not-permitted",
    errno.EROFS: "read-only",
    errno.ESPIPE: "invalid-seek",
    errno.ETXTBSY: "text-file-busy",
    errno.EXDEV: "cross-device",
}


def code_of(error: OSError) -> str:
    """Return the error code for an error of the host; `io` for one that has none."""
    return CODES.get(error.errno or 0, "io")


class Opened:
    """A file or folder that a descriptor and its streams share. The last of them closes it.

    Parameters:
        what: the file or folder.
    """

    __slots__ = ("_users", "what")

    def __init__(self, what: File | Folder) -> None:
        self.what = what
        self._users = 1

    def share(self) -> "Opened":
        """Count one more user."""
        self._users += 1
        return self

    def release(self, host: Host) -> None:
        """Count one user less."""
        self._users -= 1
        if not self._users and host.files is not None:
            # Dropping a resource has no result that could tell of a failure. The guest learns of those by sync.
            with contextlib.suppress(OSError):
                host.files.release(self.what)


@resource("descriptor")
class Descriptor(Entry):
    """An open file or folder."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def drop(self, host: Host) -> None:
        self.opened.release(host)


@resource("directory-entry-stream")
class DirectoryEntryStream(Entry):
    """A listing of a folder as it was when it was asked for."""

    def __init__(self, entries: list[FolderEntry]) -> None:
        self.weight = HANDLE_BYTES + sum(_ENTRY_BYTES + len(entry.name) for entry in entries)
        self.entries = iter(entries)


def _failure(error: OSError) -> Failed:
    code = code_of(error)
    return Failed(IoError(code, file_code=code))


class FileReader:
    """Reads a file from an offset on."""

    def __init__(self, file: File, offset: int) -> None:
        self._file = file
        self._at = offset
        self._over = False

    def ready(self) -> bool:
        return True

    def read(self, size: int) -> bytes:
        if self._over:
            raise Closed
        buffer = bytearray(min(size, READ_MAX))
        try:
            count = self._file.read([memoryview(buffer)], self._at)
        except OSError as error:
            self._over = True
            raise _failure(error) from None
        if not count:
            raise Closed
        self._at += count
        return bytes(buffer[:count])


class FileWriter(NeverStuck):
    """Writes a file from an offset on, or at its end if there is none."""

    def __init__(self, file: File, offset: int | None) -> None:
        self._file = file
        self._at = offset
        self._over = False

    def ready(self) -> bool:
        return True

    def permit(self) -> int:
        if self._over:
            raise Closed
        return PERMIT

    def write(self, data: bytes) -> None:
        if self._over:
            raise Closed
        rest = memoryview(data)
        try:
            while rest:
                count = self._file.write([rest], self._file.size() if self._at is None else self._at)
                rest = rest[count:]
                if self._at is not None:
                    self._at += count
        except OSError as error:
            self._over = True
            raise _failure(error) from None

    def flushed(self) -> bool:
        return True


class FileInput(InputStream):
    """An input-stream that keeps its file open."""

    def __init__(self, opened: Opened, reader: FileReader) -> None:
        super().__init__(reader)
        self._opened = opened.share()

    def drop(self, host: Host) -> None:
        self._opened.release(host)


class FileOutput(OutputStream):
    """An output-stream that keeps its file open."""

    def __init__(self, opened: Opened, writer: FileWriter) -> None:
        super().__init__(writer)
        self._opened = opened.share()

    def drop(self, host: Host) -> None:
        self._opened.release(host)

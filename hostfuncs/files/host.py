"""Folders of the host. openat2 resolves every path, beneath the folder to which it is relative.

A call that changes an entry opens the entry's folder in this way. It then names only the last component, which Linux
does not follow if it is a link. A call that only reads attributes opens the path and asks the descriptor. So nothing is
resolved twice. A rename in between may change which file is meant, but it never leads out of the folder.
"""

import errno
import functools
import os
import stat as modes
import sys
from collections.abc import Callable
from typing import Final

from hostfuncs.files import base
from hostfuncs.files.base import Entry, File, Folder, Kind, Stat
from hostfuncs.files.calls import open_beneath, set_times
from hostfuncs.files.host_file import HostFile, attributes, read_only
from hostfuncs.files.quota import Quota

_ENCODING: Final = sys.getfilesystemencoding()
"""The encoding with which os.scandir decodes names."""
_NAMELESS: Final = (b"", b".", b"..")
_CHANGING: Final = base.WRITE | base.TRUNCATE | base.CREATE
_OPENING: Final = os.O_NONBLOCK | os.O_NOCTTY
"""Opening a pipe must not block, and opening a terminal must not make it the controlling one. That neither is a regular
file is known only afterwards."""


@functools.cache
def _flags(how: int) -> int:
    """Return the flags of open(2) for those of `hostfuncs.files.base`."""
    flags = _OPENING
    if how & base.WRITE:
        flags |= os.O_RDWR if how & base.READ else os.O_WRONLY
    for asked, flag in (
        (base.DIRECTORY, os.O_DIRECTORY),
        (base.TRUNCATE, os.O_TRUNC),
        (base.APPEND, os.O_APPEND),
        (base.SYNC, os.O_SYNC),
        (base.DSYNC, os.O_DSYNC),
    ):
        if how & asked:
            flags |= flag
    return flags if how & base.FOLLOW else flags | os.O_NOFOLLOW


class HostFolder(Folder):
    """An open folder of the host.

    Parameters:
        opened: its descriptor, which this object closes; or a function that opens it when it is first needed.
        quota: counts what the guest makes and writes.
        read_only: whether nothing beneath it can be changed.
        strict: whether times are fixed, entries are sorted, and inode numbers are 0.
    """

    __slots__ = ("_descriptor", "_open", "_quota", "_strict")

    def __init__(self, opened: int | Callable[[], int], quota: Quota, *, read_only: bool, strict: bool) -> None:
        self._descriptor = opened if isinstance(opened, int) else -1
        self._open = None if isinstance(opened, int) else opened
        self._quota = quota
        self.read_only = read_only
        self._strict = strict

    def __repr__(self) -> str:
        return f"<HostFolder {self._descriptor} {'read-only' if self.read_only else 'writable'}>"

    @property
    def descriptor(self) -> int:
        """Its descriptor."""
        if self._descriptor < 0:
            assert self._open is not None, "the folder is closed"
            self._descriptor = self._open()
        return self._descriptor

    def open(self, path: bytes, how: int) -> File | Folder:
        """See Folder."""
        self._quota.check_path(path)
        if how & _CHANGING:
            descriptor = self._opened(path, _flags(how), how)
        else:
            at = self._descriptor
            descriptor = open_beneath(at if at >= 0 else self.descriptor, path, _flags(how))
        try:
            mode = os.fstat(descriptor).st_mode
            if modes.S_ISREG(mode):
                return HostFile(descriptor, how, self._quota, read_only=self.read_only, strict=self._strict)
            if modes.S_ISDIR(mode):
                if how & base.CREATE:
                    # As in Linux. The folder was opened without O_CREAT, because only new entries are counted.
                    raise OSError(errno.EISDIR, "it is a folder")
                return HostFolder(descriptor, self._quota, read_only=self.read_only, strict=self._strict)
            raise OSError(errno.EACCES, "neither a file nor a folder")
        except OSError:
            os.close(descriptor)
            raise

    def _refuse_change(self, path: bytes, how: int) -> None:
        """Raise the error of opening in a read-only folder, unless the opening changes nothing."""
        if not how & (base.WRITE | base.TRUNCATE | base.EXCLUSIVE):
            try:
                self.stat(path, follow=bool(how & base.FOLLOW))
            except FileNotFoundError:
                raise read_only() from None
            return
        if not how & base.CREATE:
            self.stat(path, follow=bool(how & base.FOLLOW))
        raise read_only()

    def _opened(self, path: bytes, flags: int, how: int) -> int:
        if self.read_only:
            self._refuse_change(path, how)
        if how & base.WRITE and how & base.DIRECTORY:
            raise OSError(errno.EISDIR, "a folder cannot be opened for writing")
        if self.read_only or not how & base.CREATE:
            return open_beneath(self.descriptor, path, flags)
        if how & base.DIRECTORY:
            # Linux leaves the meaning of this undefined.
            raise OSError(errno.EINVAL, "a folder cannot be created by opening it")
        quota = self._quota
        if not how & base.EXCLUSIVE:
            try:
                return open_beneath(self.descriptor, path, flags)
            except FileNotFoundError:
                pass
        quota.enter()
        try:
            return open_beneath(
                self.descriptor, path, flags | os.O_CREAT | (os.O_EXCL if how & base.EXCLUSIVE else 0), 0o666
            )
        except OSError:
            quota.entries_left += 1
            raise

    def _look(self, path: bytes, follow: bool) -> int:
        """Open a path only to read its attributes."""
        self._quota.check_path(path)
        return open_beneath(self.descriptor, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))

    def stat(self, path: bytes, *, follow: bool) -> Stat:
        """See Folder."""
        descriptor = self._look(path, follow)
        try:
            return attributes(os.fstat(descriptor), self._strict)
        finally:
            os.close(descriptor)

    def own_stat(self) -> Stat:
        """See Folder."""
        return attributes(os.fstat(self.descriptor), self._strict)

    def set_times(self, path: bytes, accessed_ns: int | None, modified_ns: int | None, *, follow: bool) -> None:
        """See Folder."""
        descriptor = self._look(path, follow)
        try:
            if self.read_only:
                raise read_only()
            set_times(descriptor, accessed_ns, modified_ns)
        finally:
            os.close(descriptor)

    def make_folder(self, path: bytes) -> None:
        """See Folder."""
        self._change(path, errno.EEXIST, lambda at, name: os.mkdir(name, 0o777, dir_fd=at), makes=True)

    def remove_folder(self, path: bytes) -> None:
        """See Folder."""
        self._change(path, errno.EINVAL, lambda at, name: os.rmdir(name, dir_fd=at))

    def unlink(self, path: bytes) -> None:
        """See Folder."""
        self._change(path, errno.EISDIR, lambda at, name: os.unlink(name, dir_fd=at))

    def symlink(self, target: bytes, path: bytes) -> None:
        """See Folder."""
        self._quota.check_path(target)
        self._change(path, errno.EEXIST, lambda at, name: os.symlink(target, name, dir_fd=at), makes=True)

    def read_link(self, path: bytes) -> bytes:
        """See Folder."""
        descriptor = self._look(path, follow=False)
        try:
            return os.readlink(b"", dir_fd=descriptor)
        except FileNotFoundError:
            # Linux has this error for a descriptor of anything but a link.
            raise OSError(errno.EINVAL, "not a symbolic link") from None
        finally:
            os.close(descriptor)

    def link(self, path: bytes, to: Folder, new: bytes) -> None:
        """See Folder."""

        def call(at: int, name: bytes, there: int, second: bytes) -> None:
            if name.endswith(b"/"):
                # Linux would follow a symbolic link here. A folder can have no second name in any case.
                raise OSError(errno.EPERM, "only files can have a second name")
            os.link(name, second, src_dir_fd=at, dst_dir_fd=there, follow_symlinks=False)

        self._move(path, to, new, call, makes=True)

    def rename(self, path: bytes, to: Folder, new: bytes) -> None:
        """See Folder."""

        def call(at: int, name: bytes, there: int, second: bytes) -> None:
            os.rename(name, second, src_dir_fd=at, dst_dir_fd=there)

        self._move(path, to, new, call, makes=False)

    def _move(
        self, path: bytes, to: Folder, new: bytes, call: Callable[[int, bytes, int, bytes], None], *, makes: bool
    ) -> None:
        if not isinstance(to, HostFolder):
            raise OSError(errno.EXDEV, "the two are kept in different places")
        # For links, too: a second name in a writable folder would make a read-only file writable.
        if self.read_only or to.read_only:
            raise read_only()
        to._change(
            new,
            errno.EEXIST if makes else errno.EBUSY,
            lambda there, second: self._change(
                path, errno.EPERM if makes else errno.EBUSY, lambda at, name: call(at, name, there, second)
            ),
            makes=makes,
        )

    def _change(self, path: bytes, nameless: int, call: Callable[[int, bytes], None], *, makes: bool = False) -> None:
        """Change an entry.

        Parameters:
            path: the path of the entry.
            nameless: the errno for a path that ends in `.` or `..`.
            call: makes the change. It gets the descriptor of the entry's folder, and the entry's name.
            makes: whether the change makes an entry.
        """
        self._quota.check_path(path)
        stripped = path.rstrip(b"/")
        head, _, name = stripped.rpartition(b"/")
        if self.read_only:
            raise read_only()
        if name in _NAMELESS:
            os.close(self._look(path, follow=True))
            raise OSError(nameless, "the path names no entry")
        if len(stripped) != len(path):
            name += b"/"
        at = open_beneath(self.descriptor, head, os.O_PATH | os.O_DIRECTORY) if head else self.descriptor
        try:
            if makes:
                self._enter(at, name)
            try:
                call(at, name)
            except OSError:
                if makes:
                    self._quota.entries_left += 1
                raise
        finally:
            if head:
                os.close(at)

    def _enter(self, at: int, name: bytes) -> None:
        """Count one more entry. EEXIST takes precedence over the quota, because programs rely on it."""
        if not self._quota.entries_left and _exists(at, name.rstrip(b"/")):
            raise OSError(errno.EEXIST, "the name is taken")
        self._quota.enter()

    def entries(self) -> list[Entry]:
        """See Folder."""
        descriptor = open_beneath(self.descriptor, b".", os.O_RDONLY | os.O_DIRECTORY)
        most = self._quota.listing_left
        found: list[Entry] = []
        try:
            with os.scandir(descriptor) as listed:
                for entry in listed:
                    if len(found) >= most:
                        self._quota.check_listing(len(found) + 1)
                    name = entry.name.encode(_ENCODING, "surrogateescape")
                    found.append(Entry(name, _kind_of(entry), 0 if self._strict else entry.inode()))
        finally:
            os.close(descriptor)
        if self._strict:
            found.sort()
        return found

    def sync(self) -> None:
        """See Folder."""
        descriptor = open_beneath(self.descriptor, b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """See Folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._open = None


def _exists(at: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except OSError:
        return False
    return True


def _kind_of(entry: "os.DirEntry[str]") -> Kind:
    if entry.is_symlink():
        return Kind.SYMBOLIC_LINK
    if entry.is_dir(follow_symlinks=False):
        return Kind.DIRECTORY
    return Kind.REGULAR_FILE if entry.is_file(follow_symlinks=False) else Kind.UNKNOWN

"""The settings of a guest's folders, and the folders and files that one run has open."""

import contextlib
import os
import posixpath
from dataclasses import dataclass, field

from hostfuncs.files.base import File, Folder
from hostfuncs.files.calls import open_beneath
from hostfuncs.files.host import HostFolder
from hostfuncs.files.memory import MemoryFolder
from hostfuncs.files.nodes import Space
from hostfuncs.files.quota import Quota
from hostfuncs.limits import Limits


def _check_target(target: str) -> None:
    """Raise TypeError or ValueError unless the target of a folder is an absolute path."""
    if not isinstance(target, str):
        raise TypeError(f"the target {target!r} is not a str")
    if not target.startswith("/") or "\0" in target or ".." in target.split("/"):
        raise ValueError(f"the target {target!r} is not an absolute path; write /data")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A folder of the host that a guest finds.

    Each run looks the source up when the guest first uses it, and keeps that folder to its end. If a link on the
    source's path changes, the next run sees the other folder.

    Raises:
        TypeError: the source or the target is not a str.
        ValueError: the target is not an absolute path.
    """

    source: str
    """The folder: a path, or with `anchor` a path relative to it that cannot lead out of it."""
    target: str
    """The absolute path by which the guest finds it."""
    read_only: bool = True
    anchor: int | None = field(default=None, compare=False)
    """The descriptor of a folder, which must stay open while this object is used; None for a plain path. Processes that
    cannot open paths need it."""

    def __post_init__(self) -> None:
        _check_target(self.target)
        if not isinstance(self.source, str):
            raise TypeError(f"the source {self.source!r} is not a str")

    def open(self) -> int:
        """Open the folder. Return its descriptor.

        Raises:
            OSError: it does not exist, or is not a folder.
        """
        flags = os.O_PATH | os.O_DIRECTORY
        if self.anchor is None:
            return os.open(self.source, flags | os.O_CLOEXEC)
        return open_beneath(self.anchor, os.fsencode(self.source), flags)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tmp:
    """A writable folder in memory, which exists for one run.

    Raises:
        TypeError: the target is not a str, or a number is not whole.
        ValueError: the target is not an absolute path, or a number is negative.
    """

    target: str
    """The absolute path by which the guest finds it."""
    size: int
    """The most bytes of all files together."""
    files: int
    """The most files, folders and links together."""

    def __post_init__(self) -> None:
        _check_target(self.target)
        for name, value in (("size", self.size), ("files", self.files)):
            if type(value) is not int:
                raise TypeError(f"{name} is {value!r}, not a whole number")
            if value < 0:
                raise ValueError(f"{name} is {value}; it may not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSettings:
    """All folders of a guest.

    Raises:
        ValueError: two have the same target.
    """

    mounts: tuple[Mount, ...] = ()
    tmp: Tmp | None = None

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for target in [*(mount.target for mount in self.mounts), *([self.tmp.target] if self.tmp else [])]:
            if posixpath.normpath(target) in seen:
                raise ValueError(f"two folders have the target {target}")
            seen.add(posixpath.normpath(target))

    def __bool__(self) -> bool:
        return bool(self.mounts) or self.tmp is not None

    def open(self, limits: Limits, *, strict: bool) -> "Files":
        """Return the folders for one run.

        Parameters:
            limits: the limits of the run.
            strict: whether times are fixed, entries are sorted, and inode numbers are 0.
        """
        return Files(self, limits, strict)


class Files:
    """The folders that one run finds, and all that it has opened in them.

    Parameters:
        settings: the settings of the folders.
        limits: the limits of the run.
        strict: whether times are fixed, entries are sorted, and inode numbers are 0.
    """

    __slots__ = ("_open", "_tmp", "preopened", "quota")

    def __init__(self, settings: FileSettings, limits: Limits, strict: bool) -> None:
        self.quota = quota = Quota(limits)
        self._open: set[File | Folder] = set()
        self.preopened: list[tuple[str, Folder]] = []
        """The target and the folder of each mount, in the order of the settings, then those of `tmp`."""
        for mount in settings.mounts:
            folder = HostFolder(mount.open, quota, read_only=mount.read_only, strict=strict)
            self.preopened.append((mount.target, folder))
        self._tmp: MemoryFolder | None = None
        if settings.tmp is not None:
            tmp = settings.tmp
            self._tmp = MemoryFolder(quota, Space(tmp.size, tmp.files, strict))
            self.preopened.append((tmp.target, self._tmp))

    def open(self, folder: Folder, path: bytes, how: int) -> File | Folder:
        """Open a file or folder for the guest. See `Folder.open`. Raises EMFILE if it has too many open."""
        self.quota.open()
        try:
            found = folder.open(path, how)
        except OSError:
            self.quota.opened -= 1
            raise
        self._open.add(found)
        return found

    def release(self, found: File | Folder) -> None:
        """Close a file or folder that `open` returned. A mount's own folder stays open: the guest may have it twice.

        Raises:
            OSError: the file system could not keep what was written. The file is closed all the same.
        """
        if found in self._open:
            self._open.remove(found)
            self.quota.opened -= 1
            found.close()

    def close(self) -> None:
        """Close all files and folders, after the end of the run."""
        for found in self._open:
            # Some network file systems report only now that they are full. As at the end of a process, there is nobody
            # to tell. A guest that needs to know closes its files, or syncs them.
            with contextlib.suppress(OSError):
                found.close()
        self._open.clear()
        for _, folder in self.preopened:
            folder.close()
        if self._tmp is not None:
            self._tmp.discard()

    def __repr__(self) -> str:
        return f"<Files {[target for target, _ in self.preopened]} {self.quota!r}>"

"""Which folders a guest finds, and the set of them that one run has open."""

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
    """Raise TypeError or ValueError unless a guest can find a folder by this path."""
    if not isinstance(target, str):
        raise TypeError(f"the target {target!r} is no str")
    if not target.startswith("/") or "\0" in target or ".." in target.split("/"):
        raise ValueError(f"the target {target!r} is not an absolute path; write /data")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A folder of the host that a guest finds.

    Raises:
        TypeError: the source or the target is no str.
        ValueError: the target is no absolute path.

    Each run looks the source up anew, when the guest first uses it, and keeps that folder to its end. So a run sees one
    state of a source that is a link, or lies behind one, and the next run may see another.
    """

    source: str
    """The folder: a path, or with `anchor` a path relative to it that cannot lead out of it."""
    target: str
    """The absolute path by which the guest finds it."""
    read_only: bool = True
    anchor: int | None = field(default=None, compare=False)
    """A descriptor that stays open as long as this object is used. It is needed where paths cannot be opened."""

    def __post_init__(self) -> None:
        _check_target(self.target)
        if not isinstance(self.source, str):
            raise TypeError(f"the source {self.source!r} is no str")

    def open(self) -> int:
        """Open the folder; gives back its descriptor.

        Raises:
            OSError: it is not there, or is no folder.
        """
        flags = os.O_PATH | os.O_DIRECTORY
        if self.anchor is None:
            return os.open(self.source, flags | os.O_CLOEXEC)
        return open_beneath(self.anchor, os.fsencode(self.source), flags)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tmp:
    """A writable folder in memory: new for each run, and gone after it.

    Raises:
        TypeError: the target is no str, or a number is not whole.
        ValueError: the target is no absolute path, or a number is negative.
    """

    target: str
    """The absolute path by which the guest finds it."""
    size: int
    """Bytes of all files together."""
    files: int
    """Files, folders and links together."""

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
            limits: of the run.
            strict: fixed times, sorted entries, no inode numbers.
        """
        return Files(self, limits, strict)


class Files:
    """The folders that one run finds, and everything that it has opened in them.

    Parameters:
        settings: which folders there are.
        limits: of the run.
        strict: fixed times, sorted entries, no inode numbers.
    """

    __slots__ = ("_open", "_tmp", "preopened", "quota")

    def __init__(self, settings: FileSettings, limits: Limits, strict: bool) -> None:
        self.quota = quota = Quota(limits)
        self._open: set[File | Folder] = set()
        self.preopened: list[tuple[str, Folder]] = []
        """Path and folder, in the order of the settings, `tmp` last."""
        for mount in settings.mounts:
            folder = HostFolder(mount.open, quota, read_only=mount.read_only, strict=strict)
            self.preopened.append((mount.target, folder))
        self._tmp: MemoryFolder | None = None
        if settings.tmp is not None:
            tmp = settings.tmp
            self._tmp = MemoryFolder(quota, Space(tmp.size, tmp.files, strict))
            self.preopened.append((tmp.target, self._tmp))

    def open(self, folder: Folder, path: bytes, how: int) -> File | Folder:
        """Open a file or folder for the guest. See `Folder.open`; EMFILE if it has too many open."""
        self.quota.open()
        try:
            found = folder.open(path, how)
        except OSError:
            self.quota.opened -= 1
            raise
        self._open.add(found)
        return found

    def let_go(self, found: File | Folder) -> None:
        """Close what `open` gave back. A mount's folder stays open: the guest may have it twice.

        Raises:
            OSError: what was written could not be kept. It is closed all the same.
        """
        if found in self._open:
            self._open.remove(found)
            self.quota.opened -= 1
            found.close()

    def close(self) -> None:
        """Close everything. The guest runs no more."""
        for found in self._open:
            # Some network file systems tell only now that there was no room. As at the end of a process, nobody is
            # left to be told; a guest that cares closes its files or syncs them.
            with contextlib.suppress(OSError):
                found.close()
        self._open.clear()
        for _, folder in self.preopened:
            folder.close()
        if self._tmp is not None:
            self._tmp.discard()

    def __repr__(self) -> str:
        return f"<Files {[target for target, _ in self.preopened]} {self.quota!r}>"

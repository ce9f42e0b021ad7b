"""`path_*` beneath the folders of a guest. Linked instead of those of `unsupported` for guests that have any.

Source: WASI snapshot-01, wasi_snapshot_preview1.witx. Every function answers BADF if the descriptor is not open, NOTDIR
if it is not a folder, NOTCAPABLE if it lacks the right of the function's name, PERM for a path that leads out of the
folder, ROFS for a change in a read-only one, NAMETOOLONG beyond the limit of paths, and FAULT for pointers outside
memory. Each names what comes besides.
"""

import functools
from collections.abc import Callable
from typing import Final

from hostfuncs.files import base
from hostfuncs.files.base import Folder
from hostfuncs.wasip1 import rights
from hostfuncs.wasip1.errno import BADF, INVAL, NOTCAPABLE, NOTDIR, SUCCESS, of
from hostfuncs.wasip1.filestat import new_times, write_stat
from hostfuncs.wasip1.program import (
    FDFLAGS_APPEND,
    FDFLAGS_DSYNC,
    FDFLAGS_NONBLOCK,
    FDFLAGS_RSYNC,
    FDFLAGS_SYNC,
    Function,
    OpenFile,
    OpenFolder,
    Program,
)

_FOLLOW: Final = 1
_CREAT, _DIRECTORY, _EXCL, _TRUNC = 1, 2, 4, 8
_OFLAGS: Final = ((_CREAT, base.CREATE), (_DIRECTORY, base.DIRECTORY), (_EXCL, base.EXCLUSIVE), (_TRUNC, base.TRUNCATE))
_FDFLAGS: Final = (
    (FDFLAGS_APPEND, base.APPEND),
    (FDFLAGS_DSYNC, base.DSYNC),
    (FDFLAGS_RSYNC, base.SYNC),
    (FDFLAGS_SYNC, base.SYNC),
)
_KNOWN_FDFLAGS: Final = FDFLAGS_APPEND | FDFLAGS_DSYNC | FDFLAGS_NONBLOCK | FDFLAGS_RSYNC | FDFLAGS_SYNC


_READ_WRITE: Final = rights.FD_READ | rights.FD_WRITE
_OPENING: Final = _READ_WRITE | rights.FD_READDIR
_NEEDED: Final = {
    0: rights.PATH_OPEN,
    _CREAT: rights.PATH_OPEN | rights.PATH_CREATE_FILE,
    _TRUNC: rights.PATH_OPEN | rights.PATH_FILESTAT_SET_SIZE,
    _CREAT | _TRUNC: rights.PATH_OPEN | rights.PATH_CREATE_FILE | rights.PATH_FILESTAT_SET_SIZE,
}
"""The rights that opening needs, by `oflags`."""


@functools.cache
def _how(follow: int, opening: int, oflags: int, fdflags: int) -> int:
    """Return the way to open that a guest asks for. There are a few thousand."""
    how = base.FOLLOW if follow else 0
    if opening & rights.FD_WRITE:
        how |= base.WRITE
    if opening & (rights.FD_READ | rights.FD_READDIR):
        how |= base.READ
    for given, known in ((oflags, _OFLAGS), (fdflags, _FDFLAGS)):
        for flag, wanted in known:
            if given & flag:
                how |= wanted
    return how


class _Refused(Exception):  # noqa: N818 - an errno on its way to the guest
    def __init__(self, errno: int) -> None:
        self.errno = errno


def _folder(program: Program, fd: int, right: int) -> OpenFolder:
    opened = (program.descriptors or program.open_descriptors()).get(fd)
    if opened is None:
        raise _Refused(BADF)
    if not isinstance(opened, OpenFolder):
        raise _Refused(NOTDIR)
    if right & ~opened.rights:
        raise _Refused(NOTCAPABLE)
    return opened


def _path(program: Program, pointer: int, length: int) -> bytes:
    files = program.files
    assert files is not None
    if length > files.quota.path_bytes:
        files.quota.check_length(length)
    return program.memory.read(pointer, length)


def _answered(function: Callable[..., int]) -> Callable[..., int]:
    @functools.wraps(function)
    def call(program: Program, *params: int) -> int:
        try:
            return function(program, *params)
        except OSError as error:
            return of(error)
        except _Refused as refused:
            return refused.errno

    return call


def path_open(
    program: Program,
    fd: int,
    dirflags: int,
    path: int,
    path_len: int,
    oflags: int,
    rights_base: int,
    rights_inheriting: int,
    fdflags: int,
    opened: int,
) -> int:
    """Open a file or folder.

    Parameters:
        fd: of the folder that the path is relative to.
        dirflags: 1 follow a symbolic link at the end.
        oflags: 1 create, 2 it must be a folder, 4 it must not exist, 8 cut to nothing.
        rights_base: FD_READ and FD_WRITE say how to open; of the others those are given that apply and are inherited.
        rights_inheriting: of what is opened through it.
        fdflags: 1 append, 2 dsync, 4 non-blocking, 8 rsync, 16 sync.
        opened: where the new descriptor goes, u32.

    Errno: INVAL for unknown flags; NOTCAPABLE without PATH_OPEN, PATH_CREATE_FILE to create or PATH_FILESTAT_SET_SIZE
    to cut, or if FD_READ or FD_WRITE cannot be inherited; MFILE beyond the limit of open files; ACCES for what is
    neither a file nor a folder.
    """
    if oflags > 15 or fdflags & ~_KNOWN_FDFLAGS:
        return INVAL
    # Without the decorator and `_folder`: programs open files by the thousand.
    at = (program.descriptors or program.open_descriptors()).get(fd)
    if not isinstance(at, OpenFolder):
        return BADF if at is None else NOTDIR
    if _NEEDED[oflags & (_CREAT | _TRUNC)] & ~at.rights or rights_base & _READ_WRITE & ~at.inheriting:
        return NOTCAPABLE
    files = program.files
    assert files is not None
    program.memory.check(opened, 4)
    how = _how(dirflags & _FOLLOW, rights_base & _OPENING, oflags, fdflags)
    try:
        found = files.open(at.folder, _path(program, path, path_len), how)
    except OSError as error:
        return of(error)
    descriptor: OpenFile | OpenFolder
    if found.is_file:
        descriptor = OpenFile(found, fdflags, rights_base & at.inheriting & rights.FILE)
    else:
        inherited = rights_inheriting & at.inheriting
        descriptor = OpenFolder(found, fdflags, rights_base & at.inheriting & rights.FOLDER, inherited)
    program.memory.write_u32(opened, program.add(descriptor))
    return SUCCESS


@_answered
def path_create_directory(program: Program, fd: int, path: int, path_len: int) -> int:
    """Make a folder. Errno: EXIST; DQUOT beyond the limit of entries."""
    _folder(program, fd, rights.PATH_CREATE_DIRECTORY).folder.make_folder(_path(program, path, path_len))
    return SUCCESS


@_answered
def path_remove_directory(program: Program, fd: int, path: int, path_len: int) -> int:
    """Remove an empty folder. Errno: NOTDIR, NOTEMPTY."""
    _folder(program, fd, rights.PATH_REMOVE_DIRECTORY).folder.remove_folder(_path(program, path, path_len))
    return SUCCESS


@_answered
def path_unlink_file(program: Program, fd: int, path: int, path_len: int) -> int:
    """Remove a file's name. Errno: ISDIR."""
    _folder(program, fd, rights.PATH_UNLINK_FILE).folder.unlink(_path(program, path, path_len))
    return SUCCESS


@_answered
def path_filestat_get(program: Program, fd: int, flags: int, path: int, path_len: int, stat: int) -> int:
    """Describe a file. `flags`: 1 follow a symbolic link at the end. `stat` as for `fd_filestat_get`."""
    at = _folder(program, fd, rights.PATH_FILESTAT_GET)
    found = at.folder.stat(_path(program, path, path_len), follow=bool(flags & _FOLLOW))
    return write_stat(program, stat, found)


@_answered
def path_filestat_set_times(
    program: Program, fd: int, flags: int, path: int, path_len: int, atim: int, mtim: int, fst_flags: int
) -> int:
    """Set the times of a file. Errno: INVAL for flags that contradict each other."""
    at = _folder(program, fd, rights.PATH_FILESTAT_SET_TIMES)
    times = new_times(program, atim, mtim, fst_flags)
    at.folder.set_times(_path(program, path, path_len), *times, follow=bool(flags & _FOLLOW))
    return SUCCESS


@_answered
def path_link(
    program: Program, fd: int, flags: int, path: int, path_len: int, new_fd: int, new_path: int, new_path_len: int
) -> int:
    """Give a file a second name. Errno: INVAL if `flags` ask to follow a symbolic link; EXIST; XDEV between mounts."""
    at = _folder(program, fd, rights.PATH_LINK_SOURCE)
    to = _folder(program, new_fd, rights.PATH_LINK_TARGET)
    if flags & _FOLLOW:
        return INVAL
    return _both(program, at.folder.link, to, (path, path_len), (new_path, new_path_len))


@_answered
def path_rename(
    program: Program, fd: int, path: int, path_len: int, new_fd: int, new_path: int, new_path_len: int
) -> int:
    """Move a file or folder. Errno: ISDIR, NOTDIR, NOTEMPTY for what has the new name; XDEV between mounts."""
    at = _folder(program, fd, rights.PATH_RENAME_SOURCE)
    to = _folder(program, new_fd, rights.PATH_RENAME_TARGET)
    return _both(program, at.folder.rename, to, (path, path_len), (new_path, new_path_len))


def _both(
    program: Program,
    call: Callable[[bytes, Folder, bytes], None],
    to: OpenFolder,
    path: tuple[int, int],
    new: tuple[int, int],
) -> int:
    call(_path(program, *path), to.folder, _path(program, *new))
    return SUCCESS


@_answered
def path_symlink(program: Program, old: int, old_len: int, fd: int, path: int, path_len: int) -> int:
    """Make a symbolic link to `old`. Errno: PERM if that is absolute; EXIST."""
    at = _folder(program, fd, rights.PATH_SYMLINK)
    at.folder.symlink(_path(program, old, old_len), _path(program, path, path_len))
    return SUCCESS


@_answered
def path_readlink(program: Program, fd: int, path: int, path_len: int, buf: int, buf_len: int, bufused: int) -> int:
    """Tell where a symbolic link leads: as much as fits, without a zero at its end. Errno: INVAL if it is none."""
    at = _folder(program, fd, rights.PATH_READLINK)
    program.memory.check(buf, buf_len)
    target = at.folder.read_link(_path(program, path, path_len))[:buf_len]
    program.memory.write(buf, target)
    program.memory.write_u32(bufused, len(target))
    return SUCCESS


FUNCTIONS = (
    Function("path_create_directory", "iii", path_create_directory),
    Function("path_filestat_get", "iiiii", path_filestat_get),
    Function("path_filestat_set_times", "iiiiIIi", path_filestat_set_times),
    Function("path_link", "iiiiiii", path_link),
    Function("path_open", "iiiiiIIii", path_open),
    Function("path_readlink", "iiiiii", path_readlink),
    Function("path_remove_directory", "iii", path_remove_directory),
    Function("path_rename", "iiiiii", path_rename),
    Function("path_symlink", "iiiii", path_symlink),
    Function("path_unlink_file", "iii", path_unlink_file),
)

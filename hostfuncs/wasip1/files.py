"""`fd_*` on files and folders: linked instead of the functions of `descriptors` and `stdio` for guests that have any.

Source: WASI snapshot-01, wasi_snapshot_preview1.witx. A descriptor that lacks the right for a call is NOTCAPABLE, and
BADF for reading and writing, as in POSIX. ISDIR is what file functions answer for a folder. Each function names the
errnos of its own; those of the host's file system come besides.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final

from hostfuncs.files.base import MAX_OFFSET, Kind
from hostfuncs.wasip1 import descriptors, folders, rights, stdio, unsupported
from hostfuncs.wasip1.errno import BADF, INVAL, NAMETOOLONG, NOTCAPABLE, NOTDIR, SUCCESS, of
from hostfuncs.wasip1.filestat import new_times, write_stat
from hostfuncs.wasip1.folders import SYNCHRONOUS
from hostfuncs.wasip1.program import (
    FDFLAGS_APPEND,
    FDFLAGS_NONBLOCK,
    Function,
    OpenFile,
    OpenFolder,
    Program,
)

_VECTOR: Final = struct.Struct("<II")
_PRESTAT: Final = struct.Struct("<B3xI")
_SIGN: Final = 1 << 63


# files ----------------------------------------------------------------------------------------------------------------


def fd_read(program: Program, opened: OpenFile, iovs: int, iovs_len: int, nread: int) -> int:
    """Read at the position, and move it. Parameters as for streams. Errno: BADF without FD_READ; FAULT."""
    if not opened.rights & rights.FD_READ:
        return BADF
    memory = program.memory
    if iovs_len == 1:
        # What C libraries do, by the thousand.
        pointer, length = memory.unpack(_VECTOR, iovs)
        done = memory.lend_one(pointer, length, opened.file.read, opened.position)
    else:
        done = _transfer(program, opened.file.read, iovs, iovs_len, opened.position)
    opened.position += done
    memory.write_u32(nread, done)
    return SUCCESS


def fd_write(program: Program, opened: OpenFile, iovs: int, iovs_len: int, nwritten: int) -> int:
    """Write at the position, or at the end, and move it. Errno: BADF without FD_WRITE; DQUOT, NOSPC; FAULT."""
    if not opened.rights & rights.FD_WRITE:
        return BADF
    done = _transfer(program, opened.file.write, iovs, iovs_len, opened.position)
    opened.position = opened.file.size() if opened.flags & FDFLAGS_APPEND else opened.position + done
    program.memory.write_u32(nwritten, done)
    return SUCCESS


def fd_pread(program: Program, opened: OpenFile, iovs: int, iovs_len: int, offset: int, nread: int) -> int:
    """Read at an offset. Errno: BADF without FD_READ, NOTCAPABLE without FD_SEEK; INVAL for a huge offset; FAULT."""
    if not opened.rights & rights.FD_READ:
        return BADF
    if not opened.rights & rights.FD_SEEK:
        return NOTCAPABLE
    if offset > MAX_OFFSET:
        return INVAL
    program.memory.write_u32(nread, _transfer(program, opened.file.read, iovs, iovs_len, offset))
    return SUCCESS


def fd_pwrite(program: Program, opened: OpenFile, iovs: int, iovs_len: int, offset: int, nwritten: int) -> int:
    """Write at an offset. Errno: BADF without FD_WRITE, NOTCAPABLE without FD_SEEK; INVAL, DQUOT, NOSPC; FAULT."""
    if not opened.rights & rights.FD_WRITE:
        return BADF
    if not opened.rights & rights.FD_SEEK:
        return NOTCAPABLE
    if offset > MAX_OFFSET:
        return INVAL
    program.memory.write_u32(nwritten, _transfer(program, opened.file.write, iovs, iovs_len, offset))
    return SUCCESS


def _transfer(
    program: Program, move: Callable[[Sequence[memoryview], int], int], iovs: int, iovs_len: int, offset: int
) -> int:
    if iovs_len == 1:
        pointer, length = program.memory.unpack(_VECTOR, iovs)
        return program.memory.lend_one(pointer, length, move, offset)
    vectors = stdio.vectors(program, iovs, iovs_len)
    return program.memory.lend(vectors, lambda views: move(views, offset)) if vectors else 0


def fd_seek(program: Program, opened: OpenFile, offset: int, whence: int, newoffset: int) -> int:
    """Move the position.

    Parameters:
        offset: s64. whence: 0 from the beginning, 1 from the position, 2 from the end.
        newoffset: where the new position goes, u64.

    Errno: SUCCESS; INVAL for another whence or a position outside 0 to 2**63-1; NOTCAPABLE without FD_SEEK, unless
    the call only asks for the position.
    """
    if whence > 2:
        return INVAL
    needed = rights.FD_SEEK if offset or whence != 1 else rights.FD_SEEK | rights.FD_TELL
    if not opened.rights & needed:
        return NOTCAPABLE
    offset -= (offset & _SIGN) << 1
    to = offset + (0, opened.position)[whence] if whence < 2 else offset + opened.file.size()
    if not 0 <= to <= MAX_OFFSET:
        return INVAL
    program.memory.write_u64(newoffset, to)
    opened.position = to
    return SUCCESS


def fd_tell(program: Program, opened: OpenFile, offset: int) -> int:
    """Tell the position, u64. Errno: SUCCESS; NOTCAPABLE without FD_TELL; FAULT."""
    if not opened.rights & rights.FD_TELL:
        return NOTCAPABLE
    program.memory.write_u64(offset, opened.position)
    return SUCCESS


def fd_advise(_program: Program, opened: OpenFile, offset: int, size: int, advice: int) -> int:
    """Hint at coming accesses. Errno: SUCCESS; INVAL for unknown advice; NOTCAPABLE without FD_ADVISE."""
    if advice > 5 or max(offset, size) > MAX_OFFSET:
        return INVAL
    if not opened.rights & rights.FD_ADVISE:
        return NOTCAPABLE
    opened.file.advise(offset, size, advice)
    return SUCCESS


def fd_allocate(_program: Program, opened: OpenFile, offset: int, size: int) -> int:
    """Make room. Errno: SUCCESS; INVAL for no room or too much; NOTCAPABLE without FD_ALLOCATE; DQUOT, NOSPC."""
    if not size or offset + size > MAX_OFFSET:
        return INVAL
    if not opened.rights & rights.FD_ALLOCATE:
        return NOTCAPABLE
    opened.file.allocate(offset, size)
    return SUCCESS


def fd_sync(_program: Program, opened: OpenFile) -> int:
    """Keep contents and attributes. Errno: SUCCESS; NOTCAPABLE without FD_SYNC."""
    if not opened.rights & rights.FD_SYNC:
        return NOTCAPABLE
    opened.file.sync(data_only=False)
    return SUCCESS


def fd_datasync(_program: Program, opened: OpenFile) -> int:
    """Keep contents. Errno: SUCCESS; NOTCAPABLE without FD_DATASYNC."""
    if not opened.rights & rights.FD_DATASYNC:
        return NOTCAPABLE
    opened.file.sync(data_only=True)
    return SUCCESS


def fd_fdstat_get(program: Program, opened: OpenFile, stat: int) -> int:
    """Describe the descriptor. See `descriptors`."""
    program.memory.pack(descriptors.FDSTAT, stat, Kind.REGULAR_FILE, opened.flags, opened.rights, 0)
    return SUCCESS


def fd_fdstat_set_flags(_program: Program, opened: OpenFile, flags: int) -> int:
    """Change the flags. Errno: SUCCESS; INVAL for unknown ones or a change of the synchronous ones, as in Linux;
    NOTCAPABLE without FD_FDSTAT_SET_FLAGS."""
    if flags & ~(FDFLAGS_APPEND | FDFLAGS_NONBLOCK | SYNCHRONOUS) or (flags ^ opened.flags) & SYNCHRONOUS:
        return INVAL
    if not opened.rights & rights.FD_FDSTAT_SET_FLAGS:
        return NOTCAPABLE
    opened.file.set_append(bool(flags & FDFLAGS_APPEND))
    opened.flags = flags
    return SUCCESS


def fd_filestat_get(program: Program, opened: OpenFile, stat: int) -> int:
    """Describe the file. Errno: SUCCESS; NOTCAPABLE without FD_FILESTAT_GET; FAULT."""
    if not opened.rights & rights.FD_FILESTAT_GET:
        return NOTCAPABLE
    return write_stat(program, stat, opened.file.stat())


def fd_filestat_set_size(_program: Program, opened: OpenFile, size: int) -> int:
    """Cut or grow. Errno: SUCCESS; INVAL from 2**63 on; NOTCAPABLE without FD_FILESTAT_SET_SIZE; DQUOT, NOSPC."""
    if not opened.rights & rights.FD_FILESTAT_SET_SIZE:
        return NOTCAPABLE
    if size > MAX_OFFSET:
        return INVAL
    opened.file.truncate(size)
    return SUCCESS


def fd_filestat_set_times(program: Program, opened: OpenFile, atim: int, mtim: int, flags: int) -> int:
    """Set times. Errno: SUCCESS; INVAL for contradicting flags; NOTCAPABLE without FD_FILESTAT_SET_TIMES."""
    times = new_times(program, atim, mtim, flags)
    if not opened.rights & rights.FD_FILESTAT_SET_TIMES:
        return NOTCAPABLE
    opened.file.set_times(*times)
    return SUCCESS


def _not_a_folder(_program: Program, _opened: OpenFile, *_params: int) -> int:
    """Errno: NOTDIR."""
    return NOTDIR


# any descriptor -------------------------------------------------------------------------------------------------------


def fd_prestat_get(program: Program, fd: int, prestat: int) -> int:
    """Describe a folder that the guest has from the beginning: 0 u8, the length of its path u32 at 4.

    Errno: SUCCESS; BADF for every other descriptor; FAULT.
    """
    opened = program.open_descriptors().get(fd)
    if not isinstance(opened, OpenFolder) or opened.path is None:
        return BADF
    program.memory.pack(_PRESTAT, prestat, 0, len(opened.path))
    return SUCCESS


def fd_prestat_dir_name(program: Program, fd: int, path: int, path_len: int) -> int:
    """Tell the path of such a folder, without a zero at its end.

    Errno: SUCCESS; BADF for every other descriptor; NAMETOOLONG if `path_len` is too short; FAULT.
    """
    opened = program.open_descriptors().get(fd)
    if not isinstance(opened, OpenFolder) or opened.path is None:
        return BADF
    if path_len < len(opened.path):
        return NAMETOOLONG
    program.memory.write(path, opened.path)
    return SUCCESS


def fd_fdstat_set_rights(program: Program, fd: int, base_rights: int, inheriting: int) -> int:
    """Give up rights. Errno: SUCCESS; BADF if it is not open; NOTCAPABLE if a right would be added."""
    opened = program.open_descriptors().get(fd)
    if not isinstance(opened, OpenFile | OpenFolder):
        return descriptors.fd_fdstat_set_rights(program, fd, base_rights, inheriting)
    held = opened.inheriting if isinstance(opened, OpenFolder) else 0
    if base_rights & ~opened.rights or inheriting & ~held:
        return NOTCAPABLE
    opened.rights = base_rights
    if isinstance(opened, OpenFolder):
        opened.inheriting = inheriting
    return SUCCESS


def fd_close(program: Program, fd: int) -> int:
    """Close a descriptor. Errno: SUCCESS; BADF if it is not open; what close(2) says, after which it is closed, too."""
    opened = program.open_descriptors().pop(fd, None)
    if opened is None:
        return BADF
    try:
        program.forget(fd, opened)
    except OSError as error:
        return of(error)
    return SUCCESS


def fd_renumber(program: Program, fd: int, to: int) -> int:
    """Move a descriptor onto the number of another, which is closed. Errno: SUCCESS; BADF if one is not open."""
    opened = program.open_descriptors()
    if fd not in opened or to not in opened:
        return BADF
    if fd != to:
        former = opened[to]
        opened[to] = opened.pop(fd)
        try:
            program.forget(fd, former)
        except OSError as error:
            return of(error)
    return SUCCESS


def _by_kind(
    on_file: Callable[..., int], on_folder: Callable[..., int], on_stream: Callable[..., int | None]
) -> Callable[..., int | None]:
    """Return a function that calls one of three, by what its first parameter is open on."""

    def call(program: Program, fd: int, *params: int) -> int | None:
        opened = (program.descriptors or program.open_descriptors()).get(fd)
        try:
            if type(opened) is OpenFile:
                return on_file(program, opened, *params)
            if type(opened) is OpenFolder:
                return on_folder(program, opened, *params)
        except OSError as error:
            return of(error)
        return on_stream(program, fd, *params)

    return call


_KINDS: Final[tuple[tuple[Callable[..., int], Callable[..., int]], ...]] = (
    (fd_advise, folders.fd_advise),
    (fd_allocate, folders.is_folder),
    (fd_datasync, folders.fd_sync),
    (fd_fdstat_get, folders.fd_fdstat_get),
    (fd_fdstat_set_flags, folders.fd_fdstat_set_flags),
    (fd_filestat_get, folders.fd_filestat_get),
    (fd_filestat_set_size, folders.is_folder),
    (fd_filestat_set_times, folders.fd_filestat_set_times),
    (fd_pread, folders.is_folder),
    (fd_pwrite, folders.is_folder),
    (fd_read, folders.is_folder),
    (fd_seek, folders.is_folder),
    (fd_sync, folders.fd_sync),
    (fd_tell, folders.is_folder),
    (fd_write, folders.is_folder),
)
_STREAMS: Final = {
    function.name: function for function in (*descriptors.FUNCTIONS, *stdio.FUNCTIONS, *unsupported.FUNCTIONS)
}


def _function(name: str, on_file: Callable[..., int], on_folder: Callable[..., int]) -> Function:
    stream = _STREAMS[name]
    return Function(name, stream.params, _by_kind(on_file, on_folder, stream.call))


FUNCTIONS = (
    *(_function(on_file.__name__, on_file, on_folder) for on_file, on_folder in _KINDS),
    _function("fd_readdir", _not_a_folder, folders.fd_readdir),
    Function("fd_close", "i", fd_close),
    Function("fd_fdstat_set_rights", "iII", fd_fdstat_set_rights),
    Function("fd_prestat_dir_name", "iii", fd_prestat_dir_name),
    Function("fd_prestat_get", "ii", fd_prestat_get),
    Function("fd_renumber", "ii", fd_renumber),
)

"""Functions on the descriptors of the standard streams: `fd_fdstat_get`, `fd_close`, `fd_seek` and their like.

Source: WASI snapshot-01, wasi_snapshot_preview1.witx and typenames.witx. The streams are of the type that wazero gives
them for Dapr: block devices. No C library takes one for a terminal, so guests buffer their output. In all else they are
pipes: they have no position and no size, and nothing to synchronise.
"""

import struct

from hostfuncs.wasip1.errno import BADF, INVAL, NOTCAPABLE, NOTDIR, NOTSUP, SPIPE, SUCCESS
from hostfuncs.wasip1.program import FDFLAGS_APPEND, FDFLAGS_NONBLOCK, STDERR, Function, Program

FILETYPE_BLOCK_DEVICE = 1

FDSTAT = struct.Struct("<BxHxxxxQQ")
FILESTAT = struct.Struct("<QQBxxxxxxxQQQQQ")


def fd_fdstat_get(program: Program, fd: int, stat: int) -> int:
    """Describe a descriptor.

    Parameters:
        stat: where the `fdstat` goes, 24 bytes: type u8 at 0, flags u16 at 2, rights u64 at 8, rights of descriptors
            opened through it u64 at 16.

    Errno: SUCCESS; BADF if it is not open; FAULT if `stat` lies outside memory.
    """
    descriptor = program.open_descriptors().get(fd)
    if descriptor is None:
        return BADF
    program.memory.pack(FDSTAT, stat, FILETYPE_BLOCK_DEVICE, descriptor.flags, descriptor.rights, 0)
    return SUCCESS


def fd_fdstat_set_flags(program: Program, fd: int, flags: int) -> int:
    """Change a descriptor's flags.

    Parameters:
        flags: 1 append, 4 non-blocking: noted and without effect, as no stream ever blocks.

    Errno: SUCCESS; BADF if it is not open; INVAL for the synchronous flags, as in wazero, and for unknown ones.
    """
    descriptor = program.open_descriptors().get(fd)
    if descriptor is None:
        return BADF
    if flags & ~(FDFLAGS_APPEND | FDFLAGS_NONBLOCK):
        return INVAL
    descriptor.flags = flags
    return SUCCESS


def fd_fdstat_set_rights(program: Program, fd: int, rights: int, rights_inheriting: int) -> int:
    """Give up rights. They are remembered for `fd_fdstat_get`; what a stream can do does not depend on them.

    Errno: SUCCESS; BADF if it is not open; NOTCAPABLE if a right would be added.
    """
    descriptor = program.open_descriptors().get(fd)
    if descriptor is None:
        return BADF
    if rights & ~descriptor.rights or rights_inheriting:
        return NOTCAPABLE
    descriptor.rights = rights
    return SUCCESS


def fd_filestat_get(program: Program, fd: int, stat: int) -> int:
    """Describe the file behind a descriptor.

    Parameters:
        stat: where the `filestat` goes, 64 bytes: device, inode u64; type u8 at 16; links, size, and the times of
            access, modification and change, u64 each from 24. All zero but the type and one link.

    Errno: SUCCESS; BADF if it is not open; FAULT if `stat` lies outside memory.
    """
    if program.stream(fd) < 0:
        return BADF
    program.memory.pack(FILESTAT, stat, 0, 0, FILETYPE_BLOCK_DEVICE, 1, 0, 0, 0, 0)
    return SUCCESS


def fd_close(program: Program, fd: int) -> int:
    """Close a descriptor; later uses of its number are BADF.

    Errno: SUCCESS; BADF if it is not open.
    """
    return BADF if program.open_descriptors().pop(fd, None) is None else SUCCESS


def fd_renumber(program: Program, fd: int, to: int) -> int:
    """Move a descriptor onto the number of another, which is closed by that.

    Errno: SUCCESS; BADF if either is not open.
    """
    descriptors = program.open_descriptors()
    if fd not in descriptors or to not in descriptors:
        return BADF
    if fd != to:
        descriptors[to] = descriptors.pop(fd)
    return SUCCESS


def fd_seek(program: Program, fd: int, _offset: int, whence: int, _newoffset: int) -> int:
    """Move the position.

    Errno: SPIPE for every open descriptor; BADF if it is not open; INVAL for a whence above 2.
    """
    if program.stream(fd) < 0:
        return BADF
    return INVAL if whence > 2 else SPIPE


def fd_tell(program: Program, fd: int, _offset: int) -> int:
    """Errno: SPIPE for every open descriptor; BADF if it is not open."""
    return _answer(program, fd, SPIPE)


def fd_pread(program: Program, fd: int, _iovs: int, _iovs_len: int, _offset: int, _nread: int) -> int:
    """Errno: SPIPE for every open descriptor; BADF if it is not open."""
    return _answer(program, fd, SPIPE)


def fd_pwrite(program: Program, fd: int, _iovs: int, _iovs_len: int, _offset: int, _nwritten: int) -> int:
    """Errno: SPIPE for every open descriptor; BADF if it is not open."""
    return _answer(program, fd, SPIPE)


def fd_advise(program: Program, fd: int, _offset: int, _size: int, advice: int) -> int:
    """Errno: SPIPE for open descriptors (posix_fadvise on a pipe); BADF if it is not open; INVAL: unknown advice."""
    if program.stream(fd) < 0:
        return BADF
    return INVAL if advice > 5 else SPIPE


def fd_allocate(program: Program, fd: int, _offset: int, _size: int) -> int:
    """Errno: SPIPE for every open descriptor (posix_fallocate on a pipe); BADF if it is not open."""
    return _answer(program, fd, SPIPE)


def fd_sync(program: Program, fd: int) -> int:
    """Errno: INVAL for every open descriptor (fsync on a pipe); BADF if it is not open. Also `fd_datasync`."""
    return _answer(program, fd, INVAL)


def fd_filestat_set_size(program: Program, fd: int, _size: int) -> int:
    """Errno: INVAL for every open descriptor (ftruncate on a pipe); BADF if it is not open."""
    return _answer(program, fd, INVAL)


def fd_filestat_set_times(program: Program, fd: int, _atim: int, _mtim: int, _flags: int) -> int:
    """Errno: NOTSUP for every open descriptor; BADF if it is not open."""
    return _answer(program, fd, NOTSUP)


def fd_readdir(program: Program, fd: int, _buf: int, _buf_len: int, _cookie: int, _bufused: int) -> int:
    """Errno: NOTDIR for every open descriptor; BADF if it is not open."""
    return _answer(program, fd, NOTDIR)


def _answer(program: Program, fd: int, errno: int) -> int:
    return BADF if program.stream(fd) < 0 else errno


assert STDERR == 2  # Program.stream counts on the standard numbers

FUNCTIONS = (
    Function("fd_advise", "iIIi", fd_advise),
    Function("fd_allocate", "iII", fd_allocate),
    Function("fd_close", "i", fd_close),
    Function("fd_datasync", "i", fd_sync),
    Function("fd_fdstat_get", "ii", fd_fdstat_get),
    Function("fd_fdstat_set_flags", "ii", fd_fdstat_set_flags),
    Function("fd_fdstat_set_rights", "iII", fd_fdstat_set_rights),
    Function("fd_filestat_get", "ii", fd_filestat_get),
    Function("fd_filestat_set_size", "iI", fd_filestat_set_size),
    Function("fd_filestat_set_times", "iIIi", fd_filestat_set_times),
    Function("fd_pread", "iiiIi", fd_pread),
    Function("fd_pwrite", "iiiIi", fd_pwrite),
    Function("fd_readdir", "iiiIi", fd_readdir),
    Function("fd_renumber", "ii", fd_renumber),
    Function("fd_seek", "iIii", fd_seek),
    Function("fd_sync", "i", fd_sync),
    Function("fd_tell", "ii", fd_tell),
)

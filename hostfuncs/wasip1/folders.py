"""`fd_*` on folders; see `hostfuncs.wasip1.files`.

Source: WASI snapshot-01, wasi_snapshot_preview1.witx.
"""

from typing import Final

from hostfuncs.files.base import Entry, Kind
from hostfuncs.wasip1 import descriptors, rights
from hostfuncs.wasip1.errno import INVAL, ISDIR, NOTCAPABLE, SUCCESS
from hostfuncs.wasip1.filestat import new_times, write_stat
from hostfuncs.wasip1.listing import Listing
from hostfuncs.wasip1.program import (
    FDFLAGS_APPEND,
    FDFLAGS_DSYNC,
    FDFLAGS_NONBLOCK,
    FDFLAGS_RSYNC,
    FDFLAGS_SYNC,
    OpenFolder,
    Program,
)

SYNCHRONOUS: Final = FDFLAGS_DSYNC | FDFLAGS_RSYNC | FDFLAGS_SYNC
"""The flags of a descriptor that cannot be changed, as in Linux."""


def is_folder(_program: Program, _opened: OpenFolder, *_params: int) -> int:
    """Errno: ISDIR."""
    return ISDIR


def fd_advise(_program: Program, _opened: OpenFolder, _offset: int, _size: int, advice: int) -> int:
    """Errno: SUCCESS, without effect; INVAL for unknown advice."""
    return INVAL if advice > 5 else SUCCESS


def fd_sync(_program: Program, opened: OpenFolder) -> int:
    """Errno: SUCCESS; NOTCAPABLE without FD_SYNC."""
    if not opened.rights & rights.FD_SYNC:
        return NOTCAPABLE
    opened.folder.sync()
    return SUCCESS


def fd_fdstat_get(program: Program, opened: OpenFolder, stat: int) -> int:
    """Describe the descriptor. See `descriptors`."""
    program.memory.pack(descriptors.FDSTAT, stat, Kind.DIRECTORY, opened.flags, opened.rights, opened.inheriting)
    return SUCCESS


def fd_fdstat_set_flags(_program: Program, opened: OpenFolder, flags: int) -> int:
    """Errno: SUCCESS, remembered; INVAL for unknown flags; NOTCAPABLE without FD_FDSTAT_SET_FLAGS."""
    if flags & ~(FDFLAGS_APPEND | FDFLAGS_NONBLOCK | SYNCHRONOUS):
        return INVAL
    if not opened.rights & rights.FD_FDSTAT_SET_FLAGS:
        return NOTCAPABLE
    opened.flags = flags
    return SUCCESS


def fd_filestat_get(program: Program, opened: OpenFolder, stat: int) -> int:
    """Describe the folder. Errno: SUCCESS; NOTCAPABLE without FD_FILESTAT_GET; FAULT."""
    if not opened.rights & rights.FD_FILESTAT_GET:
        return NOTCAPABLE
    return write_stat(program, stat, opened.folder.own_stat())


def fd_filestat_set_times(program: Program, opened: OpenFolder, atim: int, mtim: int, flags: int) -> int:
    """Set times. Errno: SUCCESS; INVAL for contradicting flags; NOTCAPABLE without FD_FILESTAT_SET_TIMES."""
    times = new_times(program, atim, mtim, flags)
    if not opened.rights & rights.FD_FILESTAT_SET_TIMES:
        return NOTCAPABLE
    opened.folder.set_times(b".", *times, follow=True)
    return SUCCESS


def fd_readdir(program: Program, opened: OpenFolder, buf: int, buf_len: int, cookie: int, bufused: int) -> int:
    """List a folder.

    Parameters:
        buf, buf_len: where the entries go: next cookie u64, inode u64, name's length u32, type u8, and from 24 on the
            name. The last one is cut if it does not fit.
        cookie: where to begin; 0 lists anew.
        bufused: where the number of bytes goes, u32. Less than `buf_len` is the end.

    Errno: SUCCESS; NOTCAPABLE without FD_READDIR; OVERFLOW if it and the other folders that are being listed have more
    entries than the limit; FAULT.
    """
    if not opened.rights & rights.FD_READDIR:
        return NOTCAPABLE
    program.memory.check(buf, buf_len)
    listing = opened.listing
    if listing is None or not cookie:
        assert program.files is not None
        quota = program.files.quota
        opened.drop_listing(quota)
        own = Entry(b".", Kind.DIRECTORY, opened.folder.own_stat().inode)
        found = opened.folder.entries()
        quota.listing_left -= len(found)
        listing = opened.listing = Listing([own, Entry(b"..", Kind.DIRECTORY, 0), *found])
    out = listing.records(cookie, buf_len)
    program.memory.write(buf, out)
    program.memory.write_u32(bufused, len(out))
    return SUCCESS

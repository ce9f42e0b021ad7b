"""Error numbers of WASI preview 1 (`errno` in typenames.witx), and their counterparts of Linux's."""

import errno
from typing import Final

SUCCESS: Final = 0
BADF: Final = 8
FAULT: Final = 21
INVAL: Final = 28
IO: Final = 29
ISDIR: Final = 31
NAMETOOLONG: Final = 37
NOSYS: Final = 52
NOTDIR: Final = 54
NOTSOCK: Final = 57
NOTSUP: Final = 58
SPIPE: Final = 70
NOTCAPABLE: Final = 76

_OF_LINUX: Final = {
    errno.EACCES: 2,
    errno.EAGAIN: 6,
    errno.EBADF: BADF,
    errno.EBUSY: 10,
    errno.EDQUOT: 19,
    errno.EEXIST: 20,
    errno.EFBIG: 22,
    errno.EINTR: 27,
    errno.EINVAL: INVAL,
    errno.EIO: IO,
    errno.EISDIR: ISDIR,
    errno.ELOOP: 32,
    errno.EMFILE: 33,
    errno.EMLINK: 34,
    errno.ENAMETOOLONG: NAMETOOLONG,
    errno.ENFILE: 41,
    errno.ENODEV: 43,
    errno.ENOENT: 44,
    errno.ENOMEM: 48,
    errno.ENOSPC: 51,
    errno.ENOSYS: NOSYS,
    errno.ENOTDIR: NOTDIR,
    errno.ENOTEMPTY: 55,
    errno.EOPNOTSUPP: NOTSUP,
    errno.ENXIO: 60,
    errno.EOVERFLOW: 61,
    errno.EPERM: 63,
    errno.EROFS: 69,
    errno.ESPIPE: SPIPE,
    errno.ESTALE: 72,
    errno.ETXTBSY: 74,
    errno.EXDEV: 75,
}


def of(error: OSError) -> int:
    """Return the number for an error of the host; IO for one that has none."""
    return _OF_LINUX.get(error.errno or 0, IO)

"""Installs a seccomp filter in this process, for good. Source: seccomp(2), prctl(2)."""

import ctypes
import errno
import os
import struct
from typing import Final

from sandboxd.wall.confinement import prctl

PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """A filter whose memory is laid out before the fork, so that a worker touches few new pages to install it.

    A page that a forked process touches for the first time costs a fault of some microseconds. ctypes touches dozens of
    pages when it makes a type, a buffer and a structure.

    Parameters:
        program: from `sandboxd.wall.bpf.assemble`.
        pid_at: the offset of a process id in the program, which `install` fills in; None if there is none.
    """

    __slots__ = ("_address", "_buffer", "_loaded", "_pid_at")

    def __init__(self, program: bytes, pid_at: int | None = None) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        self._loaded = _Program(len(program) // 8, ctypes.addressof(self._buffer))
        self._address = ctypes.addressof(self._loaded)
        self._pid_at = pid_at

    def __repr__(self) -> str:
        return f"<Filter of {self._loaded.length} instructions>"

    def install(self) -> None:
        """Install the filter in this process. See the function `install`.

        Raises:
            OSError: the kernel refused.
        """
        if self._pid_at is not None:
            struct.pack_into("=I", self._buffer, self._pid_at, os.getpid())
        if prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, self._address, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"seccomp filter: {os.strerror(number)}")


def available() -> bool:
    """Return whether the kernel has seccomp filters. Source: prctl(2). With a null program it answers EFAULT then."""
    return prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EFAULT


def install(program: bytes) -> None:
    """Add a filter for every system call of the calling thread, and of all that it forks or starts.

    Of several filters, the strictest answer counts. The process must have given up gaining privileges
    (`no_new_privs`), or be privileged.

    Parameters:
        program: from `sandboxd.wall.bpf.assemble`.

    Raises:
        OSError: the kernel refused.
    """
    Filter(program).install()

"""Functions by which a process confines itself, for good: prctl(2), resource limits, and a short environment."""

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Collection, Mapping
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38

prctl: Final = ctypes.CDLL(None, use_errno=True).prctl
"""prctl(2) with whole numbers. All callers share this object: a further one may be a page that a fork has to copy."""
prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
prctl.restype = ctypes.c_int


CAP_DAC_OVERRIDE: Final = 1 << 1
CAP_DAC_READ_SEARCH: Final = 1 << 2
CAP_FOWNER: Final = 1 << 3
"""Capabilities, as bits of a set. Source: Linux, include/uapi/linux/capability.h."""
_capset: Final = ctypes.CDLL(None, use_errno=True).capset
_THIS_PROCESS: Final = struct.pack("=Ii", 0x20080522, 0)
"""The header of capset(2): _LINUX_CAPABILITY_VERSION_3, and the process itself."""


def _prctl(option: int, value: int, name: str) -> None:
    if prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name}) failed")


def forbid_new_privileges() -> None:
    """Set `no_new_privs`: no later exec gains privileges. Every child inherits it.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")


def forbid_tracing() -> None:
    """Keep processes of the same user from tracing this one and from reading its memory.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def held_capabilities() -> int:
    """Return the capabilities of this process, as bits of a set.

    Raises:
        OSError: the kernel refused.
    """
    found = ctypes.create_string_buffer(24)
    if ctypes.CDLL(None, use_errno=True).capget(_THIS_PROCESS, found) != 0:
        raise OSError(ctypes.get_errno(), "capget failed")
    low, _, _, high, _, _ = struct.unpack("=6I", found.raw)
    return int(low | high << 32)


def drop_capabilities(kept: int = 0) -> None:
    """Give up capabilities(7) for good, except those that are kept. Without them root is a user like any other.

    Under no_new_privs no program that this process runs has more.

    Parameters:
        kept: bits of a set; the process has each of them.

    Raises:
        OSError: the kernel refused.
    """
    low, high = kept & 0xFFFFFFFF, kept >> 32
    if _capset(_THIS_PROCESS, struct.pack("=6I", low, low, 0, high, high, 0)) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own parent.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, and end it if the parent is dead already.

    Parameters:
        parent: the parent's process id. The parent has passed it.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "PR_SET_PDEATHSIG")
    if os.getppid() != parent:  # the parent died before prctl took effect
        os._exit(1)


def lower_limit(what: int, value: int) -> None:
    """Set a resource limit, soft and hard. A hard limit that is lower already stays.

    Parameters:
        what: resource.RLIMIT_...
        value: the limit, in the resource's unit.

    Raises:
        OSError, ValueError: the kernel refused.
    """
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def kept_environment(
    environ: Mapping[str, str], names: Collection[str], prefixes: tuple[str, ...] = ()
) -> dict[str, str]:
    """Return the part of an environment that a confined process gets: no API token, no secret of a component.

    Parameters:
        environ: the server's environment.
        names: the variables to keep.
        prefixes: variables whose names begin with one of these are kept, too.
    """
    return {name: value for name, value in environ.items() if name in names or name.startswith(prefixes)}

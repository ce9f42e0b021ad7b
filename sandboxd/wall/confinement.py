"""Functions by which a process confines itself, for good: prctl(2), resource limits, and a short environment."""

import ctypes
import os
import resource
import signal
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

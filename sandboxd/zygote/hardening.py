"""What zygote and workers give up before they touch a guest.

A guest is contained by WebAssembly and by the limits of its binding. This is the second wall, for the day when the
first has a hole: what a worker that is no longer ours could still do. There is no system-call filter: see RATIONALE.md.
"""

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandboxd.wire.messages import Confinement, Load

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_COPIES: Final = 8
"""How often a worker may hold a guest's output at once: as it grows, whole, packed, and framed."""
_SPARE_DESCRIPTORS: Final = 128
"""Beside a worker's connections: name look-ups, certificate files, a loop of its own."""

_KEPT_ENVIRONMENT: Final = frozenset(
    """PATH HOME LANG LC_ALL LC_CTYPE TZ TMPDIR LD_LIBRARY_PATH LD_PRELOAD SSL_CERT_FILE SSL_CERT_DIR OPENSSL_CONF
    RES_OPTIONS LOCALDOMAIN HOSTALIASES VIRTUAL_ENV RUST_BACKTRACE""".split()  # noqa: SIM905 -- a table of words
)
_KEPT_PREFIXES: Final = ("PYTHON", "MALLOC_", "COVERAGE_", "COV_CORE_")

_libc = ctypes.CDLL(None, use_errno=True)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the server's environment that zygote and workers are given: no API token, no secret of a component.

    Parameters:
        environ: the server's.
    """
    return {
        name: value for name, value in environ.items() if name in _KEPT_ENVIRONMENT or name.startswith(_KEPT_PREFIXES)
    }


def _prctl(option: int, value: int, name: str) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({name}) failed")


def forbid_new_privileges() -> None:
    """Set `no_new_privs`: no exec from here on gains rights. Inherited by every worker.

    Raises:
        OSError: the kernel refused.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Walls:
    """What a worker may have: worked out once, by the zygote."""

    highest: int
    """Descriptor that was open when everything was loaded."""
    descriptors: int
    """Beside those it is born with."""
    address_space: int
    """Bytes, what it is born with included."""
    confinement: Confinement


def settle(load: Load) -> Walls:
    """Called in the zygote when it has loaded everything: it gives up what no worker is to inherit.

    Parameters:
        load: what the zygote was given.

    Returns:
        what is left to be done in each worker, for `confine_worker`.

    Raises:
        OSError, ValueError: the kernel refused. No worker must run then.
    """
    # Guests compute. A worker that wakes does not push the front aside (sched(7), SCHED_BATCH), which it would wait for
    # in the end. Needs no right; where a sandbox of the system's own forbids it, it only is slower. What an operator
    # has chosen stays.
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.umask(0o077)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    _lower(resource.RLIMIT_CORE, 0)
    # Left at what an interpreter does by default, so that the wall of processor time ends the process.
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    return Walls(
        highest=max(map(int, os.listdir("/proc/self/fd"))),
        descriptors=load.outbound.connections + _SPARE_DESCRIPTORS,
        address_space=_address_space() + headroom(load),
        confinement=load.confinement,
    )


def confine_worker(walls: Walls, highest: int = 0) -> None:
    """Called in a new worker, before it is given anything of a caller's.

    Parameters:
        walls: from `settle`.
        highest: descriptor that was opened for this worker.

    Raises:
        OSError, ValueError: the kernel refused. The worker must not run then.
    """
    # Workers write to sockets and pipes only. (Python ignores SIGXFSZ, so a write to a file fails with EFBIG.) Not for
    # the zygote: it sizes status pages.
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 1 + max(highest, walls.highest) + walls.descriptors)
    _lower(resource.RLIMIT_AS, walls.address_space)
    _become(walls.confinement)
    # Against the other workers, which have the same user: none may trace this one or read its memory.
    _prctl(_PR_SET_DUMPABLE, 0, "PR_SET_DUMPABLE")


def headroom(load: Load) -> int:
    """Bytes of address space a worker may take beside what it was born with.

    Guests' memories and tables are reserved before the fork, so this is for Python: the longest input and output with
    their copies, bodies in flight, threads that look names up.
    """
    outputs = max((guest.limits.stdout_bytes for guest in load.guests), default=0)
    return load.confinement.host_memory_bytes + _COPIES * outputs


def _address_space() -> int:
    # Not as text: the machinery that decodes it would cost every worker a megabyte of its own.
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _lower(what: int, value: int) -> None:
    """Set a limit, for good; one that is lower already stays."""
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(what, (value, value))


def _become(confinement: Confinement) -> None:
    """Change to the configured user and group, for good, and leave every other group."""
    uid, gid = confinement.uid, confinement.gid
    if uid is None and gid is None:
        return
    os.setgroups([])
    if gid is not None:
        os.setresgid(gid, gid, gid)
    if uid is not None:
        os.setresuid(uid, uid, uid)
    wanted = (os.getuid() if uid is None else uid, os.getgid() if gid is None else gid)
    if (os.getresuid(), os.getresgid(), os.getgroups()) != ((wanted[0],) * 3, (wanted[1],) * 3, []):
        raise OSError("the user and group of a worker could not be changed")

"""The confinement of the zygote and its workers: the rights that they give up before they run a guest.

A guest is contained by WebAssembly and by the limits of its binding. This is defence in depth: it limits what a
compromised worker can do. The filters of system calls and Landlock are in `sandboxd.wall`. Resource limits, the user
and the environment are here.
"""

import contextlib
import os
import resource
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandboxd.wall import FolderAccess, Mode, Wall
from sandboxd.wall.confinement import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    drop_capabilities,
    forbid_tracing,
    held_capabilities,
    kept_environment,
    lower_limit,
)
from sandboxd.wire.messages import Confinement, Load

_COPIES: Final = 8
"""The most copies of a guest's output that a worker holds at once: growing, whole, packed and framed."""
_SPARE_DESCRIPTORS: Final = 128
"""Descriptors beside a worker's connections: for name look-ups, certificate files and its event loop."""

_KEPT_ENVIRONMENT: Final = frozenset(
    """PATH HOME LANG LC_ALL LC_CTYPE TZ TMPDIR LD_LIBRARY_PATH LD_PRELOAD SSL_CERT_FILE SSL_CERT_DIR OPENSSL_CONF
    RES_OPTIONS LOCALDOMAIN HOSTALIASES VIRTUAL_ENV RUST_BACKTRACE""".split()  # noqa: SIM905 -- a table of words
)
_KEPT_PREFIXES: Final = ("PYTHON", "MALLOC_", "COVERAGE_", "COV_CORE_")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the zygote and its workers: without the API token and the secrets of components.

    Parameters:
        environ: the server's environment.
    """
    return kept_environment(environ, _KEPT_ENVIRONMENT, _KEPT_PREFIXES)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfinement:
    """The confinement of workers. The zygote computes it once, after it has loaded the guests."""

    highest: int
    """The highest descriptor that was open when the guests were loaded."""
    descriptors: int
    """The number of descriptors that a worker may open beside those that it has when it is forked."""
    address_space: int
    """The most bytes of address space, including those that a worker has when it is forked."""
    writes_files: bool
    """Whether guests of the worker have mounts that they can write to."""
    capabilities: int
    """Those that workers keep: where root serves mounts, files of other users are within its rights."""
    confinement: Confinement
    wall: Wall


def confine_zygote(load: Load) -> WorkerConfinement:
    """Give up, in a zygote that has loaded its guests, the rights that no worker may inherit.

    Parameters:
        load: the message that named the guests.

    Returns:
        the rights that each worker still has to give up, for `confine_worker`.

    Raises:
        OSError, ValueError: the kernel refused. No worker must run then.
        WallError: a required layer of the wall is missing.
    """
    # Guests compute. Under SCHED_BATCH (sched(7)), a worker that wakes does not preempt the front, for which it would
    # have to wait anyway. The change needs no privilege. If a sandbox around the server forbids it, workers are only
    # slower. A policy that an operator has chosen stays.
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.umask(0o077)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    lower_limit(resource.RLIMIT_CORE, 0)
    # The default action, so that the limit of CPU time ends the process.
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    mounts = [mount for guest in load.guests for mount in guest.mounts]
    folders = dict.fromkeys(FolderAccess(mount.reach, writable=not mount.read_only) for mount in mounts)
    writes = any(not mount.read_only for mount in mounts)
    wall = Wall(Mode(load.confinement.wall), folders=tuple(folders))
    return WorkerConfinement(
        highest=max(map(int, os.listdir("/proc/self/fd"))),
        descriptors=load.outbound.connections
        + _SPARE_DESCRIPTORS
        + max((guest.limits.open_files + len(guest.mounts) for guest in load.guests if guest.mounts), default=0),
        writes_files=writes,
        capabilities=_capabilities(load.confinement, reads=bool(mounts), writes=writes),
        address_space=_address_space() + headroom(load),
        confinement=load.confinement,
        wall=wall,
    )


def confine_worker(prepared: WorkerConfinement, highest: int = 0) -> None:
    """Confine a new worker, before it receives anything from a caller.

    Parameters:
        prepared: the value that `confine_zygote` returned.
        highest: the highest descriptor that was opened for this worker.

    Raises:
        OSError, ValueError: the kernel refused. The worker must not run then.
    """
    _give_up_rights(prepared, highest)
    prepared.wall.enclose_worker()


def confine_template(prepared: WorkerConfinement, highest: int = 0) -> None:
    """Confine a new template, before it runs guest code. See `confine_worker` for the parameters and errors.

    Its children inherit the confinement, and narrow it with `Wall.enclose_template_child`.
    """
    # The wall keeps processes in this process group. So whatever a compromised template has forked ends with the group.
    os.setpgid(0, 0)
    _give_up_rights(prepared, highest)
    prepared.wall.enclose_template()


def _give_up_rights(prepared: WorkerConfinement, highest: int) -> None:
    if not prepared.writes_files:
        # Such workers write only to sockets and pipes. (Python ignores SIGXFSZ, so a write to a file fails with EFBIG.)
        # The zygote does not have this limit, because it sizes status pages.
        lower_limit(resource.RLIMIT_FSIZE, 0)
    lower_limit(resource.RLIMIT_NOFILE, 1 + max(highest, prepared.highest) + prepared.descriptors)
    lower_limit(resource.RLIMIT_AS, prepared.address_space)
    _change_user(prepared.confinement)
    drop_capabilities(prepared.capabilities)
    # The other workers have the same user: none of them may trace this one or read its memory.
    forbid_tracing()


def headroom(load: Load) -> int:
    """Return the bytes of address space that a worker may take beyond those that it has when it is forked.

    The memories and tables of guests are reserved before the fork. These bytes are for Python: the longest input and
    output with their copies, bodies in flight, and the threads of name look-ups.
    """
    outputs = max((guest.limits.stdout_bytes for guest in load.guests), default=0)
    # A bytearray that grows is copied, and takes an eighth more than its content.
    tmp = max((guest.tmp.size for guest in load.guests if guest.tmp is not None), default=0)
    return load.confinement.host_memory_bytes + _COPIES * outputs + 3 * tmp


def _capabilities(confinement: Confinement, *, reads: bool, writes: bool) -> int:
    if confinement.uid is not None:
        return 0  # the change of the user takes them
    wanted = (CAP_DAC_READ_SEARCH if reads else 0) | (CAP_DAC_OVERRIDE | CAP_FOWNER if writes else 0)
    return wanted & held_capabilities()


def _address_space() -> int:
    # Read as bytes: decoding text would load a codec and cost each worker a megabyte of private memory.
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _change_user(confinement: Confinement) -> None:
    """Change to the configured user and group for good, and leave all other groups."""
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

"""The processes of a running server: who is who, whether one computes, how one dies."""

import contextlib
import ctypes
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.running import RunningServer
from tests.waiting import until

_SYS_PIDFD_GETFD = 438


def children(pid: int) -> list[int]:
    """Process ids, oldest first."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _running(server: RunningServer, module: bytes) -> list[int]:
    def runs(pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return module in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    return [pid for pid in children(server.process.pid) if runs(pid)]


def zygotes(server: RunningServer) -> list[int]:
    """One per generation that is not gone."""
    return _running(server, b"sandboxd.zygote.main")


def broker(server: RunningServer) -> int:
    """The egress broker, once there is one."""
    found: list[int] = []

    def one() -> bool:
        found.extend(_running(server, b"sandboxd.broker.main"))
        return bool(found)

    until(one, "an egress broker")
    return found[0]


def zygote(server: RunningServer) -> int:
    """The only one."""
    (pid,) = zygotes(server)
    return pid


def workers(server: RunningServer) -> list[int]:
    """The workers of all generations."""
    return [worker for pid in zygotes(server) for worker in children(pid)]


def state(pid: int) -> str:
    """One letter: R, S, T (stopped), Z, ...; empty if there is no such process."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def cpu_ticks(pid: int) -> int:
    """User time. Hundredths of a second."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    return 0


def computing(pids: list[int]) -> int:
    """The first of these that computes: user time passes in it."""
    before = {pid: cpu_ticks(pid) for pid in pids}
    found: list[int] = []

    def one() -> bool:
        found.extend(pid for pid in pids if cpu_ticks(pid) > before[pid] + 1)
        return bool(found)

    until(one, f"one of {pids} computes")
    return found[0]


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it took effect."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: state(pid) == "T", f"{pid} stops")


@contextlib.contextmanager
def watched(pids: list[int]) -> Iterator[Callable[[float], list[int]]]:
    """Gives a function that waits, at most so many seconds, until all are dead, and returns those that are not."""
    with contextlib.ExitStack() as open_ones:
        fds = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # dead already
                fds[os.pidfd_open(pid)] = pid
        for fd in fds:
            open_ones.callback(os.close, fd)

        def wait(seconds: float) -> list[int]:
            end = time.monotonic() + seconds
            living = dict(fds)
            while living and time.monotonic() < end:
                dead, _, _ = select.select(list(living), [], [], max(0.0, end - time.monotonic()))
                for fd in dead:
                    del living[fd]
            return list(living.values())

        yield wait


def channel_of(worker: int) -> socket.socket:
    """A second descriptor of the worker's socket to the front."""
    links = {int(entry): os.readlink(f"/proc/{worker}/fd/{entry}") for entry in os.listdir(f"/proc/{worker}/fd")}
    number = min(fd for fd, target in links.items() if target.startswith("socket:"))
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(worker)
    try:
        fd = libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
    finally:
        os.close(pidfd)
    return socket.socket(fileno=fd)

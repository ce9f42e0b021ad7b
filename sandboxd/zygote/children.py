"""The processes that the zygote has forked, and the descriptors of a new one."""

import contextlib
import fcntl
import os
import signal
import socket
from dataclasses import dataclass

from sandboxd.wire.page import PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Child:
    """A process whose parent is the zygote."""

    serial: int
    pid: int
    pidfd: int
    template: int = 0
    """The serial of the template that forked it; 0 if the zygote did."""

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Ends:
    """The descriptors of a new process: those that go to the front, and those that are its own."""

    ours: socket.socket
    """The front's end of its socket."""
    theirs: socket.socket
    page: int
    """The status page, which both have."""
    broker_ours: socket.socket | None
    """The egress broker's end of its socket pair."""
    broker_theirs: socket.socket | None

    def for_front(self) -> list[int]:
        """Return what goes to the front before the pidfd, and after it."""
        return [self.ours.fileno(), self.page]

    def for_broker(self) -> list[int]:
        """Return what goes to the front after the pidfd."""
        return [] if self.broker_ours is None else [self.broker_ours.fileno()]

    def of_process(self) -> list[int]:
        """Return the process's own."""
        broker = [] if self.broker_theirs is None else [self.broker_theirs.fileno()]
        return [self.theirs.fileno(), self.page, *broker]


def make_ends(stack: contextlib.ExitStack, *, brokered: bool) -> Ends:
    """Make the descriptors of a new process.

    Parameters:
        stack: closes them in this process.
        brokered: whether there is a socket pair for the egress broker.

    Raises:
        OSError: no descriptor is free.
    """
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    page = os.memfd_create("sandboxd-status", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, page)
    os.ftruncate(page, PAGE_BYTES)
    # A worker could otherwise cut the page off, and the front would die of SIGBUS at its next look.
    fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    broker_ours = broker_theirs = None
    if brokered:
        broker_ours, broker_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(broker_ours.close)
        stack.callback(broker_theirs.close)
    return Ends(ours, theirs, page, broker_ours, broker_theirs)


def open_pidfd(pid: int) -> int:
    """Return a pidfd of a child that was just forked.

    Raises:
        OSError: no descriptor is free. The child was killed and reaped, because nothing could watch it.
    """
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise

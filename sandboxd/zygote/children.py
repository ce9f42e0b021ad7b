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

    front: socket.socket
    """The front's end of the process's channel."""
    own: socket.socket
    """The process's end of it."""
    page: int
    """The status page, which both have."""
    broker: socket.socket | None
    """The egress broker's end of the process's socket pair."""
    own_broker: socket.socket | None
    """The process's end of it."""

    def for_front(self, pidfd: int) -> list[int]:
        """Return the descriptors that go to the front, in the order of `sandboxd.wire.messages.Spawned`."""
        broker = [] if self.broker is None else [self.broker.fileno()]
        return [self.front.fileno(), self.page, pidfd, *broker]

    def for_process(self) -> list[int]:
        """Return the process's own descriptors, in the order of `sandboxd.wire.messages.Fork`."""
        broker = [] if self.own_broker is None else [self.own_broker.fileno()]
        return [self.own.fileno(), self.page, *broker]


def make_ends(stack: contextlib.ExitStack, *, brokered: bool) -> Ends:
    """Make the descriptors of a new process.

    Parameters:
        stack: closes them in this process.
        brokered: whether there is a socket pair to the egress broker.

    Raises:
        OSError: no descriptor is free.
    """
    front, own = socket.socketpair()
    stack.callback(front.close)
    stack.callback(own.close)
    page = os.memfd_create("sandboxd-status", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, page)
    os.ftruncate(page, PAGE_BYTES)
    # A worker could otherwise truncate the page, and the front would die of SIGBUS when it reads it.
    fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    broker = own_broker = None
    if brokered:
        broker, own_broker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(broker.close)
        stack.callback(own_broker.close)
    return Ends(front, own, page, broker, own_broker)


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

"""The worker's socket to the front, shared between the worker's loop and the invocation that streams."""

from __future__ import annotations

import functools
import mmap
import os
import select
import socket
import time
from typing import Final

from hostfuncs.abi import Cancelled
from sandboxd.payoff import Payoff
from sandboxd.wire import codec
from sandboxd.wire import messages as m

RECEIVE_BYTES: Final = 1 << 18
TAKEN_NS: Final = 100_000
"""A look that takes longer than this was interrupted by others who want the processor."""


class Link:
    """The worker's socket: read by the worker's loop, and by the invocation that streams while it runs.

    Made before the fork, connected after it.
    """

    _channel: socket.socket

    def __init__(self) -> None:
        self._decoder = codec.Decoder(codec.ToWorker)
        # Unlike a bytearray, its pages are not there before something is received into them. Private: each worker gets
        # its own.
        self._buffer = mmap.mmap(-1, RECEIVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._arrived: list[codec.ToWorker] = []
        self._payoff = Payoff()

    def __repr__(self) -> str:
        return f"<Link {self._decoder!r}>"

    def connect(self, channel: socket.socket) -> None:
        """Talk to the front through this stream socket, which blocks."""
        self._channel = channel

    def receive(self, poll_ns: int = 0) -> list[codec.ToWorker] | None:
        """Wait for messages; None once the front has closed the socket.

        The list may grow while it is gone through: a streaming invocation puts there what it reads and is not its own.

        Parameters:
            poll_ns: look for them this long before going to sleep.

        Raises:
            OSError: the socket broke.
            ProtocolError: what came is no message.
        """
        if poll_ns and self._payoff.worth_trying():
            self._look(poll_ns)
        size = self._channel.recv_into(self._buffer)
        if not size:
            return None
        self._arrived = self._decoder.feed(self._view[:size])
        return self._arrived

    def _look(self, poll_ns: int) -> None:
        """Poll until there is something to read, or so long."""
        readable = self._poller.poll
        before = time.monotonic_ns()
        until = before + poll_ns
        while not readable(0):
            os.sched_yield()
            now = time.monotonic_ns()
            if now >= until or now - before > TAKEN_NS:
                self._payoff.failed()
                return
            before = now
        self._payoff.succeeded()

    def send(self, *messages: m.Message) -> None:
        """Send, waiting until the front takes it.

        Raises:
            OSError: the front is gone.
        """
        self._channel.sendall(b"".join(map(codec.encode, messages)))

    # for invocations that stream --------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._channel.fileno()

    def take(self, invocation: int) -> list[m.RequestBody]:
        """What has come of an invocation's request body. Does not wait.

        Raises:
            Cancelled: the front is gone.
        """
        try:
            size = self._channel.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            size = 0
        if not size:
            raise Cancelled
        own = []
        for message in self._decoder.feed(self._view[:size]):
            if isinstance(message, m.RequestBody):
                if message.id == invocation:
                    own.append(message)
            else:
                self._arrived.append(message)
        return own

    def tell(self, *messages: m.Message) -> None:
        """As `send`, for a running guest.

        Raises:
            Cancelled: the front is gone.
        """
        try:
            self.send(*messages)
        except OSError:
            raise Cancelled from None

    def wait(self, timeout_ns: int) -> None:
        """Wait until there is something to read, or so long."""
        self._poller.poll(-(-timeout_ns // 1_000_000))

    @functools.cached_property
    def _poller(self) -> select.poll:
        poller = select.poll()
        poller.register(self._channel, select.POLLIN)
        return poller

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
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.adaptive_gate import AdaptiveGate

RECEIVE_BYTES: Final = 1 << 18
TAKEN_NS: Final = 100_000
"""One poll that takes longer than this was interrupted: others want the processor."""


class Channel:
    """The worker's socket. The worker's loop reads it, and so does a streaming invocation while it runs.

    It is made before the fork and connected after it.
    """

    _socket: socket.socket

    def __init__(self) -> None:
        self._decoder = codec.Decoder(codec.ToWorker)
        # Unlike those of a bytearray, its pages take no memory before something is received into them. Private, so that
        # each worker has its own.
        self._buffer = mmap.mmap(-1, RECEIVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._buffer)
        self._arrived: list[codec.ToWorker] = []
        self._gate = AdaptiveGate()

    def __repr__(self) -> str:
        return f"<Channel {self._decoder!r}>"

    def connect(self, stream: socket.socket) -> None:
        """Use this blocking stream socket to the front."""
        self._socket = stream

    def receive(self, poll_ns: int = 0) -> list[codec.ToWorker] | None:
        """Wait for messages; None once the front has closed the socket.

        The list may grow while it is iterated: a streaming invocation appends messages that it reads and are not its
        own.

        Parameters:
            poll_ns: poll for so many nanoseconds before sleeping.

        Raises:
            OSError: the socket broke.
            ProtocolError: the bytes are not a message.
        """
        if poll_ns and self._gate.allow():
            self._look(poll_ns)
        size = self._socket.recv_into(self._buffer)
        if not size:
            return None
        self._arrived = self._decoder.feed(self._view[:size])
        return self._arrived

    def _look(self, poll_ns: int) -> None:
        """Poll until there is something to read, for at most `poll_ns`."""
        readable = self._poller.poll
        before = time.monotonic_ns()
        until = before + poll_ns
        while not readable(0):
            os.sched_yield()
            now = time.monotonic_ns()
            if now >= until or now - before > TAKEN_NS:
                self._gate.failed()
                return
            before = now
        self._gate.succeeded()

    def send(self, *messages: m.Message) -> None:
        """Send, waiting until the front takes it.

        Raises:
            OSError: the front is gone.
        """
        self._socket.sendall(b"".join(map(codec.encode, messages)))

    # for invocations that stream --------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def take(self, invocation: int) -> list[m.RequestBody]:
        """Take the pieces of an invocation's request body that have arrived. Does not wait.

        Raises:
            Cancelled: the front is gone.
        """
        try:
            size = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
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
        """Send on behalf of a running guest.

        Raises:
            Cancelled: the front is gone.
        """
        try:
            self.send(*messages)
        except OSError:
            raise Cancelled from None

    def wait(self, timeout_ns: int) -> None:
        """Wait until there is something to read, for at most `timeout_ns`."""
        self._poller.poll(-(-timeout_ns // 1_000_000))

    @functools.cached_property
    def _poller(self) -> select.poll:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return poller

"""A stream socket that carries frames and descriptors between the front and the broker, on an event loop."""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from sandboxd.wire import codec
from sandboxd.wire.messages import Message

RECEIVE_BYTES: Final = 1 << 16
MOST_DESCRIPTORS: Final = 16
UNSENT_BYTES: Final = 64 * 1024 * 1024
"""A peer that leaves more than this unread hangs: the connection counts as lost."""


class FrameStream:
    """One end.

    Parameters:
        sock: a stream socket; it becomes this object's.
        kind: the messages that may arrive.
        received: told of each message.
        lost: told once when the peer is gone, or speaks another protocol.
        descriptors: whether messages may bring a descriptor; `descriptor` gives it.
    """

    def __init__(
        self,
        sock: socket.socket,
        kind: Any,
        received: Callable[[Any], None],
        lost: Callable[[], None],
        *,
        descriptors: bool = False,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._decoder = codec.Decoder(kind)
        self._received = received
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._most_descriptors = MOST_DESCRIPTORS if descriptors else 0
        self._arrived: deque[list[int]] = deque()
        """The descriptors of each message that brought any and is not handled yet."""
        self._unsent: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._unsent_bytes = 0
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    def __repr__(self) -> str:
        return f"<FrameStream {self._unsent_bytes} bytes unsent{'' if self._open else ', closed'}>"

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message. Does nothing once the peer is gone.

        Parameters:
            descriptors: go with it; they stay the caller's and may be closed at once.
        """
        if not self._open:
            return
        data = memoryview(codec.encode(message))
        sent = 0 if self._unsent else self._try(data, descriptors)
        if sent == len(data):
            return
        if not self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._writable)
        self._keep(data[sent:], () if sent else descriptors)

    def descriptor(self) -> int | None:
        """Return the descriptor of the message that is being handled, which becomes the caller's.

        Call it once for each message that brings one. None means that this process had no free place for it.
        """
        found = self._arrived.popleft() if self._arrived else []
        for surplus in found[1:]:
            os.close(surplus)
        return found[0] if found else None

    def close(self) -> None:
        """Close the socket. `lost` is not called."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        for _, descriptors in self._unsent:
            for descriptor in descriptors:
                os.close(descriptor)
        self._unsent.clear()
        while self._arrived:
            for descriptor in self._arrived.popleft():
                os.close(descriptor)
        self._socket.close()

    def _keep(self, data: memoryview, descriptors: Sequence[int]) -> None:
        kept: list[int] = []
        try:
            for descriptor in descriptors:
                kept.append(os.dup(descriptor))
        except OSError:
            # No free descriptor: the peer must not get the message without what belongs to it.
            self._loop.call_soon(self._lose)
        self._unsent.append((data, tuple(kept)))
        self._unsent_bytes += len(data)
        if self._unsent_bytes > UNSENT_BYTES:
            self._loop.call_soon(self._lose)

    def _try(self, data: memoryview, descriptors: Sequence[int]) -> int:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            return self._socket.sendmsg([data], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            # Told by the loop, and not to whoever sends: it is in the midst of something.
            self._loop.call_soon(self._lose)
            return len(data)

    def _writable(self) -> None:
        while self._unsent and self._open:
            data, descriptors = self._unsent[0]
            sent = self._try(data, descriptors)
            if not sent:
                return
            for descriptor in descriptors:
                os.close(descriptor)
            self._unsent_bytes -= sent
            if sent < len(data):
                self._unsent[0] = (data[sent:], ())
                return
            self._unsent.popleft()
        if self._open:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            # Without room for them, the kernel drops descriptors.
            data, descriptors, flags, _ = socket.recv_fds(self._socket, RECEIVE_BYTES, self._most_descriptors)
            # unix(7): a read ends after a message with descriptors, so these are of one message. It may end within that
            # message, which is then handled after a later read. Descriptors that this process has no free place for are
            # lost; MSG_CTRUNC is the only sign of them.
            if self._most_descriptors and (descriptors or flags & socket.MSG_CTRUNC):
                self._arrived.append(descriptors)
            messages = self._decoder.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, codec.ProtocolError):
            messages = None
        for message in messages or ():
            self._received(message)
            if not self._open:
                return
        if messages is None:
            self._lose()

    def _lose(self) -> None:
        if self._open:
            self.close()
            self._lost()

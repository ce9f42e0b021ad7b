"""The worker's side of the egress broker: asks it to connect, and receives the connected sockets."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import select
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from hostfuncs.outbound.connector import AddressDenied
from hostfuncs.outbound.errors import ErrorCode, OutboundError, Phase, Unresolved
from hostfuncs.outbound.policy import Denied
from sandboxd.broker import messages as b

_MOST_DESCRIPTORS: Final = 4
SOON_MS: Final = 1
"""So long this process waits for the answer about an address before it goes back to its event loop. The broker answers
sooner where the origin is near, and the detour over the event loop takes a third of what the broker costs."""
# Made before the fork, so that workers share them.
_decode = msgspec.msgpack.Decoder(b.ToWorker).decode
_encode = msgspec.msgpack.Encoder().encode

_LOST: Final = "the egress broker ended; the server starts another"


class BrokerDialer:
    """Has the broker connect. It implements `hostfuncs.outbound.connector.Dialer`.

    It is made before the fork, so that workers share its memory, and connected in the worker.
    """

    def __init__(self) -> None:
        self.invocation = 0
        """The id of the invocation that the worker runs."""
        self._channel: socket.socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[socket.socket], Callable[[Phase], None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poll = select.poll()
        self._reads = False
        """Whether the event loop watches the channel."""

    def __repr__(self) -> str:
        return f"<BrokerDialer waiting={len(self._waiting)}>"

    def connect(self, channel: socket.socket) -> None:
        """Use a socket from now on: the worker's end of its socket pair with the broker."""
        channel.setblocking(False)
        self._channel = channel
        self._poll.register(channel, select.POLLIN)

    async def dial(self, scheme: str, host: str, port: int, enter: Callable[[Phase], None]) -> socket.socket:
        """See `hostfuncs.outbound.connector.Dialer`.

        Raises:
            AddressDenied, Unresolved, OutboundError, OSError: there is no connection.
        """
        # Never so of a name: the last label of one is no number (`hostfuncs.outbound.authority`).
        is_address = ":" in host or host.rpartition(".")[2].isdigit()
        if is_address:
            enter(Phase.CONNECTING)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The former one was thrown away, and with it whoever waited.
            self._waiting.clear()
            self._loop, self._reads = loop, False
        number = next(self._numbers)
        answer: asyncio.Future[socket.socket] = loop.create_future()
        alone = not self._waiting
        if alone:
            # What came while nobody waited is for requests that were given up, or of a broker that has ended since.
            while self._received():
                pass
        self._waiting[number] = (answer, enter)
        try:
            self._send(b.Dial(number, self.invocation, scheme, host, port))
            if alone and is_address and self._poll.poll(SOON_MS):
                self._received()
            if not answer.done() and not self._reads:
                loop.add_reader(self._channel.fileno(), self._received)
                self._reads = True
            return await answer
        except BaseException:
            self._give_up(number, answer)
            raise
        finally:
            self._waiting.pop(number, None)
            if self._reads and not self._waiting:
                loop.remove_reader(self._channel.fileno())
                self._reads = False

    def _give_up(self, number: int, answer: asyncio.Future[socket.socket]) -> None:
        if not answer.done():
            try:
                self._send(b.Cancel(number))
            except OSError:
                return  # the broker does not read: what it connects in vain is closed when it arrives
        elif not answer.cancelled() and answer.exception() is None:
            answer.result().close()

    def _send(self, message: b.FromWorker) -> None:
        try:
            self._channel.send(_encode(message), socket.MSG_DONTWAIT)
        except BlockingIOError:
            raise OSError(errno.ENOBUFS, "the egress broker has more to do than it may") from None

    def _received(self) -> bool:
        """Take one packet. Return whether there was one."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(self._channel, b.PACKET_BYTES, _MOST_DESCRIPTORS)
        except BlockingIOError:
            return False
        except OSError:
            data, descriptors, flags = b"", [], 0
        if not data:
            self._fail_all()
            return False
        message = _decode(data)
        if isinstance(message, b.Lost):
            self._fail_all()
            return True
        answer, enter = self._waiting.get(message.id, (None, None))
        if answer is None or answer.done() or enter is None:
            for descriptor in descriptors:  # it was given up
                os.close(descriptor)
        elif isinstance(message, b.Resolved):
            enter(Phase.CONNECTING)
        elif isinstance(message, b.Failed):
            answer.set_exception(_error(message))
        elif descriptors:
            sock = socket.socket(fileno=descriptors[0])
            sock.setblocking(False)
            answer.set_result(sock)
        else:
            assert flags & socket.MSG_CTRUNC, "a socket is attached"
            answer.set_exception(OSError(errno.EMFILE, "this worker has no free descriptor for the connection"))
        return True

    def _fail_all(self) -> None:
        for answer, _ in self._waiting.values():
            if not answer.done():
                answer.set_exception(OutboundError(ErrorCode("internal-error", _LOST)))


def _error(failed: b.Failed) -> Exception:
    match failed.why:
        case b.Failure.DENIED:
            return AddressDenied(Denied(failed.reason, failed.text))
        case b.Failure.UNRESOLVED:
            return Unresolved()
        case b.Failure.LOOK_UP:
            return socket.gaierror(failed.number, failed.text)
        case b.Failure.CONNECT:
            return OSError(failed.number, failed.text) if failed.number else OSError(failed.text)
        case b.Failure.NOT_RUNNING:
            return OutboundError(ErrorCode("internal-error", "the invocation is over by what the server knows"))

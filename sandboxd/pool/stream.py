"""The flow of bodies between a caller and the worker that runs its streaming invocation, bounded in both directions."""

import asyncio
from collections import deque
from typing import Final, Protocol

from sandboxd.limits import KIB
from sandboxd.pool import faults
from sandboxd.wire import messages as m

HIGH_BYTES: Final = 256 * KIB
"""High-water mark: when this much of a response waits for the caller, the worker's socket is no longer read."""
LOW_BYTES: Final = 64 * KIB
"""Low-water mark: when only this much waits, the socket is read again."""
PIECE_BYTES: Final = 64 * KIB
"""The most bytes of a request's body in one frame."""
_BODILESS: Final = frozenset((204, 304))
"""The statuses of responses without a body (RFC 9110, 6.4.1)."""

_COST_BYTES: Final = 128
"""The overhead counted for each chunk, because a guest may write single bytes."""

FromGuest = m.RequestCredit | m.ResponseHead | m.ResponseBody


class Carrier(Protocol):
    """The worker that runs the invocation."""

    def write(self, message: m.Message) -> None:
        """Send it a frame."""
        ...

    def pause(self) -> None:
        """Stop reading from it."""
        ...

    def resume(self) -> None:
        """Read from it again."""
        ...


class Stream:
    """The bodies of one streaming invocation between its caller and its worker. Use it on one event loop.

    The caller makes it, passes it to `Pool.invoke`, and then uses `send` and `receive`. The pool closes it when the
    invocation is over.

    Parameters:
        body_follows: whether the request's body comes through `send`; otherwise it is the invocation's stdin.
    """

    def __init__(self, *, body_follows: bool) -> None:
        self.body_follows = body_follows
        self.received_bytes = 0
        """The number of bytes of the response's body that the worker has sent."""
        self._most_bytes: int | None = None
        self._head_only = False
        self._expected: int | None = None
        self._carrier: Carrier | None = None
        self._id = 0
        self._credit = 0
        self._sent_last = False
        self._answered = False
        self._waiting: deque[m.ResponseHead | bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._over = False
        self._changed_for_sender = asyncio.Event()
        self._changed_for_receiver = asyncio.Event()

    def __repr__(self) -> str:
        state = "over" if self._over else "open" if self._carrier is not None else "not begun"
        return f"<Stream {state} credit={self._credit} waiting={self._waiting_bytes}>"

    # the caller -------------------------------------------------------------------------------------------------------

    async def send(self, data: bytes, *, last: bool) -> None:
        """Send a part of the request's body, as fast as the guest reads it. Return at once if the invocation is over.

        Parameters:
            data: the part.
            last: whether it is the last one.
        """
        if not data and not last:
            return
        at = 0
        while not self._over:
            if self._carrier is not None and (self._credit or at == len(data)):
                size = min(len(data) - at, self._credit, PIECE_BYTES)
                end = last and at + size == len(data)
                if size or (end and not self._sent_last):
                    self._credit -= size
                    self._sent_last = end
                    self._carrier.write(m.RequestBody(self._id, data[at : at + size], end))
                    at += size
                if at == len(data):
                    return
                continue
            self._changed_for_sender.clear()
            await self._changed_for_sender.wait()

    async def receive(self) -> m.ResponseHead | bytes | None:
        """Return the next part of the response: the head, then parts of the body; None when the invocation is over."""
        while not self._waiting:
            if self._over:
                return None
            self._changed_for_receiver.clear()
            await self._changed_for_receiver.wait()
        item = self._waiting.popleft()
        if isinstance(item, bytes):
            self._waiting_bytes -= len(item) + _COST_BYTES
        if self._paused and self._waiting_bytes <= LOW_BYTES:
            self._read_on()
        return item

    # the pool ---------------------------------------------------------------------------------------------------------

    def bound(self, most_bytes: int, *, head_only: bool) -> None:
        """Say what the response may have, before the invocation is sent.

        Parameters:
            most_bytes: the limit of its body.
            head_only: whether it is the response to a HEAD request, which has no body.
        """
        self._most_bytes = most_bytes
        self._head_only = head_only

    def incomplete(self) -> str:
        """Return the fault of a worker that tells of a completed run now; empty if the response is complete."""
        if self._over:
            return ""
        if not self._answered:
            return "completed without a response"
        if self._expected is not None and self.received_bytes != self._expected:
            return "completed with another length of body than its Content-Length"
        return ""

    def take(self, carrier: Carrier, message: FromGuest) -> str:
        """Take a frame of the invocation from its worker.

        Parameters:
            carrier: the worker.
            message: the frame.

        Returns:
            how the frame violates the protocol; empty if it does not.
        """
        if self._over:
            return ""
        if isinstance(message, m.RequestCredit):
            if not self.body_follows or not 0 < message.size <= m.WINDOW_BYTES - self._credit:
                return "gave credit that the protocol does not allow"
            self._carrier, self._id = carrier, message.id
            self._credit += message.size
            self._changed_for_sender.set()
            return ""
        if isinstance(message, m.ResponseHead):
            if self._answered:
                return "sent a second head"
            fault = faults.of_head(message.status, message.headers)
            if fault:
                return fault
            self._answered = True
            if self._head_only or message.status in _BODILESS:
                self._most_bytes = 0
            else:
                self._expected = faults.announced(message.headers)
                if self._expected is not None:
                    self._most_bytes = min(self._expected, self._most_bytes or self._expected)
            self._waiting.append(message)
        else:
            if not self._answered:
                return "sent a body without a head"
            self.received_bytes += len(message.data)
            if self._most_bytes is not None and self.received_bytes > self._most_bytes:
                return "sent a longer body than the response may have"
            self._waiting.append(message.data)
            self._waiting_bytes += len(message.data) + _COST_BYTES
            if self._waiting_bytes > HIGH_BYTES and not self._paused:
                self._carrier = carrier
                self._paused = True
                carrier.pause()
        self._changed_for_receiver.set()
        return ""

    def close(self) -> None:
        """End the flow: the invocation is over. What has arrived can still be received."""
        self._over = True
        if self._paused:
            self._read_on()
        self._carrier = None
        self._changed_for_sender.set()
        self._changed_for_receiver.set()

    def _read_on(self) -> None:
        self._paused = False
        if self._carrier is not None:
            self._carrier.resume()

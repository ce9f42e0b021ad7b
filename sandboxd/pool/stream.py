"""What flows between a caller and the worker that runs its streaming invocation, bounded in both directions."""

import asyncio
from collections import deque
from typing import Final, Protocol

from sandboxd.limits import KIB
from sandboxd.wire import messages as m

HIGH_BYTES: Final = 256 * KIB
"""Of a response, once this much waits for the caller, its worker's socket is read no further."""
LOW_BYTES: Final = 64 * KIB
"""It is read on when only this much waits."""
PIECE_BYTES: Final = 64 * KIB
"""Of a request's body, the most that one frame carries."""
CREDIT_MAX_BYTES: Final = 16 * 1024 * KIB
"""More credit than any worker gives."""

_COST_BYTES: Final = 128
"""What a piece costs beside its bytes: guests may write them one by one."""

FromGuest = m.RequestCredit | m.ResponseHead | m.ResponseBody


class Carrier(Protocol):
    """The worker that runs the invocation."""

    def write(self, message: m.Message) -> None:
        """Send it a frame."""
        ...

    def pause(self) -> None:
        """Read nothing more from it for now."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...


class Stream:
    """One streaming invocation between its caller and its worker. All of it happens on one event loop.

    The caller makes it, hands it to `Pool.invoke`, and then uses `send` and `receive`; the pool closes it when the
    invocation is over.

    Parameters:
        body_follows: the request's body comes through `send`; otherwise it is the invocation's stdin.
    """

    def __init__(self, *, body_follows: bool) -> None:
        self.body_follows = body_follows
        self.received_bytes = 0
        """Of the response's body, what has come from the worker."""
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
        """Pass on a piece of the request's body, as the guest takes it. Returns at once when the invocation is over.

        Parameters:
            last: nothing follows.
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
        """What the guest has answered next: the head, then pieces of the body; None when the invocation is over."""
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

    def take(self, carrier: Carrier, message: FromGuest) -> str:
        """A frame of the invocation has come from its worker.

        Returns:
            what is wrong with it; empty if nothing is.
        """
        if self._over:
            return ""
        if isinstance(message, m.RequestCredit):
            if not self.body_follows or not 0 < message.size <= CREDIT_MAX_BYTES - self._credit:
                return "gave credit out of place"
            self._carrier, self._id = carrier, message.id
            self._credit += message.size
            self._changed_for_sender.set()
            return ""
        if isinstance(message, m.ResponseHead):
            if self._answered:
                return "sent a second head"
            self._answered = True
            self._waiting.append(message)
        else:
            if not self._answered:
                return "sent a body without a head"
            self.received_bytes += len(message.data)
            self._waiting.append(message.data)
            self._waiting_bytes += len(message.data) + _COST_BYTES
            if self._waiting_bytes > HIGH_BYTES and not self._paused:
                self._carrier = carrier
                self._paused = True
                carrier.pause()
        self._changed_for_receiver.set()
        return ""

    def close(self) -> None:
        """The invocation is over. What has come can still be received."""
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

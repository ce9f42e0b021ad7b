"""Bodies in both directions: small buffers between a guest that computes and a loop that only sometimes runs.

Neither side ever blocks here. The guest's side is plain methods (`permit`, `write`, `read`, ...). A connection's side
is coroutines that wait for the other side with a future. What is held counts in the account of the guest's run.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from hostfuncs.account import LINE_BYTES, Account
from hostfuncs.outbound.errors import ErrorCode, OutboundError
from hostfuncs.outbound.fields import check_fields, trimmed
from hostfuncs.outbound.values import Fields, OutboundLimits

_SMALL_BYTES = 1024
_PIECE_BYTES = 64 * 1024


class Buffer:
    """Bytes on their way, first in, first out.

    Small pieces are put together. Otherwise a peer that sends two bytes at a time would cost thirty times as much
    memory as it sends.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray | memoryview] = deque()
        self.size = 0
        """Bytes held."""

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes at the end."""
        pieces = self._pieces
        self.size += len(data)
        if pieces and len(data) < _SMALL_BYTES and len(pieces[-1]) < _SMALL_BYTES:
            last = pieces[-1]
            if not isinstance(last, bytearray):
                last = pieces[-1] = bytearray(last)
            last += data
        else:
            pieces.append(data)

    def take(self, most: int) -> bytes:
        """Remove and return at most so many bytes from the beginning; fewer only if there are no more."""
        pieces = self._pieces
        if not pieces:
            return b""
        if len(pieces) == 1 and len(pieces[0]) <= most:
            self.size = 0
            return bytes(pieces.popleft())
        taken = []
        left = most
        while pieces and left:
            piece = pieces.popleft()
            if len(piece) > left:
                pieces.appendleft(piece[left:])
                piece = piece[:left]
            left -= len(piece)
            taken.append(piece)
        self.size -= most - left
        return b"".join(taken)

    def clear(self) -> int:
        """Remove everything and return how many bytes that were."""
        size, self.size = self.size, 0
        self._pieces.clear()
        return size


class RequestBody:
    """A request's body on its way out. Made by `Exchanges.request_body`; given to `Exchanges.start`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: OutboundLimits,
        account: Account,
        told: Callable[[], None],
        expected: int | None,
        capacity: int,
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._account = account
        self._told = told
        self._capacity = capacity
        self.expected = expected
        """The Content-Length the guest announced, if it did."""
        self.written = 0
        """Bytes accepted so far."""
        self.trailers: Fields = ()
        self.finished = False
        """The guest has said that this is all."""
        self.taken = False
        """A connection has taken something out of it, so the request cannot be repeated."""
        self.sent = False
        """A request with it was started. Before that nobody reads it, however long the guest waits."""
        self._offered = 0
        self._given_up = False
        self._buffer = Buffer()
        self._leaving = 0
        self._trailer_cost = 0
        self._owner: object = None
        self._error: ErrorCode | None = None
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "finished" if self.finished else "open"
        return f"<RequestBody {state}, {self.written} written, {self.held} held>"

    @property
    def closed(self) -> bool:
        """Return whether nobody reads it any more: the exchange has ended or failed."""
        return self._closed

    @property
    def complete(self) -> bool:
        """Return whether nothing is missing: the guest has finished it, or has written as much as it announced."""
        return self.finished or (self.expected is not None and self.written == self.expected)

    @property
    def unused(self) -> bool:
        """Return whether the guest opened it and never wrote to it, whatever became of it then."""
        return not self._offered and (self._error is None or self._given_up)

    @property
    def held(self) -> int:
        """Bytes written and not yet handed to the network. 0 means flushed."""
        return self._buffer.size + self._leaving

    def full(self) -> bool:
        """Return whether it holds as much as it may by itself, however much the guest's other bodies hold."""
        return self.held >= self._capacity

    def permit(self) -> int:
        """Return how many bytes `write` takes now; 0 means wait for `ready`."""
        return max(0, min(self._capacity - self.held, self._account.body_room()))

    def ready(self) -> bool:
        """Return whether a write would be answered at once: there is room, or it would fail."""
        return self._closed or self._error is not None or self.permit() > 0

    def flushed(self) -> bool:
        """Return whether nothing is waiting to be sent. What belongs to no request yet is kept, and not waited for."""
        return self._closed or self._error is not None or self.held == 0 or not self.sent

    def write(self, data: bytes) -> None:
        """Append bytes, at most `permit()` of them.

        Raises:
            OutboundError: HTTP-request-body-size over the announced or the allowed size (the request fails with it
                too); the exchange's own error, or connection-terminated, once it has ended.
            ValueError: more than `permit()` bytes, or after `finish`.
            HostMemoryExceeded: the host would hold too much for the guest; never for what `permit` permits.
        """
        self._usable()
        self._offered += len(data)
        if self.finished or len(data) > self.permit():
            raise ValueError("wrote more than was permitted, or after the end of the body")
        total = self.written + len(data)
        ceiling = self._limits.body_bytes if self.expected is None else min(self.expected, self._limits.body_bytes)
        if total > ceiling:
            self.abort(ErrorCode("HTTP-request-body-size", total))
            self._usable()
        if data:
            self._account.take_body(len(data))
            self.written = total
            self._buffer.append(data)
            self._wake()

    def hold(self, data: bytearray, owner: object) -> None:
        """Take a whole body that somebody else holds, and counts, already.

        Parameters:
            data: must not change any more.
            owner: kept for as long as the bytes may be needed.

        Raises:
            OutboundError: HTTP-request-body-size over the allowed size.
        """
        if len(data) > self._limits.body_bytes:
            raise OutboundError(ErrorCode("HTTP-request-body-size", len(data)))
        self._owner = owner
        self._offered = self.written = len(data)
        self._buffer.append(memoryview(data))
        self.finished = True

    def finish(self, trailers: Fields = ()) -> None:
        """Say that the body is complete. A second call does nothing.

        A body whose length was announced goes out without trailers: its framing has no place for them (RFC 9112,
        section 6.3), and wasmtime leaves them out too.

        Raises:
            OutboundError: HTTP-request-body-size if less was written than announced; HTTP-protocol-error,
                HTTP-request-trailer-size or HTTP-request-trailer-section-size for the trailers. The request fails with
                the same code.
            HostMemoryExceeded: the host would hold too much for the guest.
        """
        if self.finished:
            return
        if self.expected is not None and self.written != self.expected and self._error is None:
            self.abort(ErrorCode("HTTP-request-body-size", self.written))
            self._usable()
        try:
            size = check_fields(
                trailers,
                limit_bytes=self._limits.header_bytes,
                limit_count=self._limits.header_count,
                trailers=True,
            )
        except OutboundError as exc:
            self.abort(exc.code)
            raise
        if trailers and self.expected is None:
            cost = size + len(trailers) * LINE_BYTES
            self._account.take(cost)
            self._trailer_cost = cost
            self.trailers = trimmed(trailers)
        self.finished = True
        self._wake()

    def abort(self, code: ErrorCode | None = None) -> None:
        """Give the body up: the request fails with `code`.

        Parameters:
            code: why; None if the guest just dropped it. That is HTTP-protocol-error as in wasmtime, unless the body is
                complete by the length that was announced: then nothing is lost.
        """
        if self.finished or self._error is not None or (code is None and self.complete):
            return
        self._given_up = code is None
        self._error = code or ErrorCode("HTTP-protocol-error")
        self._wake()

    def whole(self, most: int) -> bytes | None:
        """Connection: take all of it at once; None, and nothing is taken, if it is not complete or more than `most`."""
        if not self.complete or self._error is not None or self.held > most:
            return None
        self.taken = True
        data = self._buffer.take(most)
        self._give(len(data))
        self._told()
        return data

    def close(self) -> None:
        """Connection: nobody will read on."""
        self._closed = True
        self._give(self._buffer.clear() + self._leaving)
        self._leaving = 0
        self._owner = None
        self._account.held -= self._trailer_cost
        self._trailer_cost = 0
        self._told()

    def _give(self, size: int) -> None:
        if self._owner is None:
            self._account.give_body(size)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Connection: yield what the guest writes until it finishes. Raises OutboundError if it gave up."""
        self.taken = True
        while True:
            if self._error is not None:
                raise OutboundError(self._error)
            if self._buffer.size:
                chunk = self._buffer.take(_PIECE_BYTES)
                # Counted as held until the network took it, so that a slow origin holds the guest back.
                self._leaving = len(chunk)
                yield chunk
                self._give(self._leaving)
                self._leaving = 0
                self._told()
            elif self.complete:
                return
            else:
                self._waiter = self._loop.create_future()
                await self._waiter

    def _usable(self) -> None:
        if self._error is not None:
            raise OutboundError(self._error)
        if self._closed:
            raise OutboundError(ErrorCode("connection-terminated"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ResponseBody:
    """A response's body as it arrives.

    At most `buffer_bytes` wait here, and less where the guest's bodies have used up their part of the account. The
    origin is held back beyond that. A body that holds nothing always takes a piece, so that none waits for another.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: OutboundLimits, account: Account, told: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._account = account
        self._told = told
        self._buffer = Buffer()
        self._complete = False
        self._error: ErrorCode | None = None
        self._room: asyncio.Future[None] | None = None
        self.received = 0
        """Bytes that came from the origin so far."""
        self.trailers: Fields = ()
        """Trailer lines; final once `ended`."""

    def __repr__(self) -> str:
        state = "failed" if self._error else "complete" if self._complete else "open"
        return f"<ResponseBody {state}, {self.received} received, {self.held} held>"

    @property
    def held(self) -> int:
        """Bytes that `read` could return at once."""
        return self._buffer.size

    @property
    def ended(self) -> bool:
        """Return whether all of it was read and it was complete."""
        return self._complete and not self._buffer.size

    def complete(self) -> bool:
        """Return whether nothing more will arrive: the end came, or a failure."""
        return self._complete or self._error is not None

    def ready(self) -> bool:
        """Return whether `read` would return bytes, the end or the failure."""
        return self._buffer.size > 0 or self.complete()

    def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` (at least 1) that have arrived; b"" if none have, or at the end (see `ended`).

        Raises:
            OutboundError: the exchange failed, and all that arrived before was read. HTTP-response-incomplete if the
                origin broke off, connection-read-timeout, HTTP-response-body-size,
                HTTP-response-trailer-section-size, HTTP-protocol-error, or what `Exchange.result` raises.
        """
        if not self._buffer.size:
            if self._error is not None:
                raise OutboundError(self._error)
            return b""
        taken = self._buffer.take(max_bytes)
        self._account.give_body(len(taken))
        if self._room is not None and not self._room.done() and not self.full():
            self._room.set_result(None)
        return taken

    def feed(self, data: bytes) -> None:
        """Connection: bytes arrived.

        Raises:
            OutboundError: HTTP-response-body-size over the limit.
            HostMemoryExceeded: the host holds too much for the guest.
        """
        self.received += len(data)
        if self.received > self._limits.body_bytes:
            raise OutboundError(ErrorCode("HTTP-response-body-size", self.received))
        if data:
            self._account.take_body(len(data))
            self._buffer.append(data)
            self._told()

    async def room(self) -> None:
        """Connection: wait until the guest has read enough."""
        if self.full():
            self._room = self._loop.create_future()
            await self._room

    def full(self) -> bool:
        """Connection: whether `room` would wait."""
        held = self._buffer.size
        return held >= self._limits.buffer_bytes or (held > 0 and not self._account.body_room())

    def end(self, trailers: Fields) -> None:
        """Connection: the last byte arrived."""
        self.trailers = trailers
        self._complete = True
        self._told()

    def fail(self, code: ErrorCode) -> None:
        """Connection: there will be no more."""
        if not self._complete and self._error is None:
            self._error = code
            self._told()

    def discard(self) -> None:
        """Discard the bytes that are held. It is called when the guest has dropped the body."""
        self._account.give_body(self._buffer.clear())

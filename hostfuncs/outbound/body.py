"""Bodies in both directions: small buffers between a guest that computes and an event loop that runs now and then.

Neither side ever blocks here. The guest's side has plain methods (`permit`, `write`, `read`, ...). The connection's
side has coroutines that wait for the guest with a future. The account of the guest's run counts the bytes that are
held.
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
    """A queue of bytes.

    Small pieces are joined. Otherwise two bytes at a time would take thirty times as much memory as one piece.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray | memoryview] = deque()
        self.size = 0
        """The number of bytes in it."""

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
        """Remove and return the first `most` bytes, or all if there are fewer."""
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
        """Remove all bytes. Return their number."""
        size, self.size = self.size, 0
        self._pieces.clear()
        return size


class RequestBody:
    """The body of a request. `Exchanges.request_body` makes it, and `Exchanges.start` takes it."""

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
        """The Content-Length that the guest announced; None if it announced none."""
        self.written = 0
        """The number of bytes accepted so far."""
        self.trailers: Fields = ()
        self.finished = False
        """Whether the guest has finished it."""
        self.taken = False
        """Whether a connection has taken bytes from it. The request cannot be repeated then."""
        self.sent = False
        """Whether a request with it was started. Before that nobody reads it, however long the guest waits."""
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
        """Whether nobody will read it, because the exchange has ended or failed."""
        return self._closed

    @property
    def complete(self) -> bool:
        """Whether all of it was written: the guest has finished it, or has written the length that it announced."""
        return self.finished or (self.expected is not None and self.written == self.expected)

    @property
    def unused(self) -> bool:
        """Whether the guest opened it and never wrote to it."""
        return not self._offered and (self._error is None or self._given_up)

    @property
    def held(self) -> int:
        """The bytes that were written and not handed to the network yet. 0 means flushed."""
        return self._buffer.size + self._leaving

    def full(self) -> bool:
        """Return whether it holds as many bytes as it may, regardless of the guest's other bodies."""
        return self.held >= self._capacity

    def permit(self) -> int:
        """Return the number of bytes that `write` accepts now; 0 means to wait for `ready`."""
        return max(0, min(self._capacity - self.held, self._account.body_room()))

    def ready(self) -> bool:
        """Return whether a write would succeed or fail now, and need not wait."""
        return self._closed or self._error is not None or self.permit() > 0

    def flushed(self) -> bool:
        """Return whether no byte waits to be sent. The bytes of a request that was not started do not count."""
        return self._closed or self._error is not None or self.held == 0 or not self.sent

    def write(self, data: bytes) -> None:
        """Append bytes, at most `permit()` of them.

        Raises:
            OutboundError: HTTP-request-body-size over the announced or the allowed size, and the request fails with the
                same code; or, once the exchange has ended, its own error or connection-terminated.
            ValueError: more than `permit()` bytes, or a call after `finish`.
            HostMemoryExceeded: the host would hold too much for the guest. It never happens within `permit()` bytes.
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
        """Use bytes as the whole body that the caller holds, and counts, already.

        Parameters:
            data: the bytes. They must not change any more.
            owner: an object to keep for as long as the bytes may be needed.

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
        """Finish the body. A second call does nothing.

        A body whose length was announced is sent without trailers: its framing has no place for them (RFC 9112, section
        6.3), and wasmtime leaves them out, too.

        Raises:
            OutboundError: HTTP-request-body-size if fewer bytes were written than announced; HTTP-protocol-error,
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
            code: the error code; None if the guest just dropped the body. That is HTTP-protocol-error, as in wasmtime,
                unless the body has the length that was announced. It is complete then.
        """
        if self.finished or self._error is not None or (code is None and self.complete):
            return
        self._given_up = code is None
        self._error = code or ErrorCode("HTTP-protocol-error")
        self._wake()

    def whole(self, most: int) -> bytes | None:
        """Connection: take the whole body at once. Return None if it is incomplete or over `most` bytes."""
        if not self.complete or self._error is not None or self.held > most:
            return None
        self.taken = True
        data = self._buffer.take(most)
        self._give(len(data))
        self._told()
        return data

    def close(self) -> None:
        """Connection: stop reading. The bytes that are held are freed."""
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
        """Connection: yield the bytes of the guest until it finishes. Raises OutboundError if it gave the body up."""
        self.taken = True
        while True:
            if self._error is not None:
                raise OutboundError(self._error)
            if self._buffer.size:
                chunk = self._buffer.take(_PIECE_BYTES)
                # The chunk is counted as held until the network takes it, so that a slow origin slows the guest down.
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
    """The body of a response, as it arrives.

    It holds at most `buffer_bytes`, or fewer if the guest's bodies have used up their part of the account. Then nothing
    more is read from the origin. A body that holds nothing always takes a piece, so that none waits for another.
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
        """The number of bytes that came from the origin so far."""
        self.trailers: Fields = ()
        """The trailer lines. They are final once `ended` is true."""

    def __repr__(self) -> str:
        state = "failed" if self._error else "complete" if self._complete else "open"
        return f"<ResponseBody {state}, {self.received} received, {self.held} held>"

    @property
    def held(self) -> int:
        """The number of bytes that `read` could return at once."""
        return self._buffer.size

    @property
    def ended(self) -> bool:
        """Whether it arrived completely and all of it was read."""
        return self._complete and not self._buffer.size

    def complete(self) -> bool:
        """Return whether no more bytes will arrive, because of its end or a failure."""
        return self._complete or self._error is not None

    def ready(self) -> bool:
        """Return whether `read` would return bytes, the end or the failure."""
        return self._buffer.size > 0 or self.complete()

    def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` (at least 1) that have arrived; b"" if there are none, or at the end (see `ended`).

        Raises:
            OutboundError: the exchange failed, and all bytes that had arrived were read. HTTP-response-incomplete if
                the origin broke off, connection-read-timeout, HTTP-response-body-size,
                HTTP-response-trailer-section-size, HTTP-protocol-error, or a code of `Exchange.result`.
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
        """Connection: add bytes that arrived.

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
        """Connection: return whether `room` would wait."""
        held = self._buffer.size
        return held >= self._limits.buffer_bytes or (held > 0 and not self._account.body_room())

    def end(self, trailers: Fields) -> None:
        """Connection: mark the body as complete."""
        self.trailers = trailers
        self._complete = True
        self._told()

    def fail(self, code: ErrorCode) -> None:
        """Connection: mark the body as failed, unless it is complete."""
        if not self._complete and self._error is None:
            self._error = code
            self._told()

    def discard(self) -> None:
        """Discard the bytes that are held. It is called when the guest has dropped the body."""
        self._account.give_body(self._buffer.clear())

"""Bodies in both directions: small buffers between a guest that computes and a loop that only sometimes runs.

Neither side ever blocks here. The guest's side is plain methods (`permit`, `write`, `read`, ...); the engine's side is
coroutines that wait for the other side with a future.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from hostfuncs.outbound.errors import ErrorCode, OutboundError
from hostfuncs.outbound.fields import check_fields
from hostfuncs.outbound.shapes import Fields, OutboundLimits


class RequestBody:
    """A request's body on its way out. Made by `Exchanges.request_body`; given to `Exchanges.start`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: OutboundLimits,
        told: Callable[[], None],
        expected: int | None,
        capacity: int,
    ) -> None:
        self._loop = loop
        self._limits = limits
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
        """The engine has taken something out of it, so the request cannot be repeated."""
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._error: ErrorCode | None = None
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else "finished" if self.finished else "open"
        return f"<RequestBody {state}, {self.written} written, {self._held} held>"

    @property
    def closed(self) -> bool:
        """Whether nobody reads it any more: the exchange has ended or failed."""
        return self._closed

    @property
    def held(self) -> int:
        """Bytes written and not yet handed to the network. 0 means flushed."""
        return self._held

    def permit(self) -> int:
        """Return how many bytes `write` takes now; 0 means wait for `ready`."""
        return max(0, self._capacity - self._held)

    def ready(self) -> bool:
        """Whether a write would be answered at once: there is room, or it would fail."""
        return self._closed or self._error is not None or self.permit() > 0

    def flushed(self) -> bool:
        """Whether nothing is waiting to be sent (or never will be)."""
        return self._closed or self._error is not None or self._held == 0

    def write(self, data: bytes) -> None:
        """Append bytes, at most `permit()` of them.

        Raises:
            OutboundError: HTTP-request-body-size over the announced or the allowed size (the request fails with it
                too); the exchange's own error, or connection-terminated, once it has ended.
            ValueError: more than `permit()` bytes, or after `finish`.
        """
        self._usable()
        if self.finished or len(data) > self.permit():
            raise ValueError("wrote more than was permitted, or after the end of the body")
        total = self.written + len(data)
        ceiling = self._limits.body_bytes if self.expected is None else min(self.expected, self._limits.body_bytes)
        if total > ceiling:
            self.abort(ErrorCode("HTTP-request-body-size", total))
            self._usable()
        if data:
            self.written = total
            self._held += len(data)
            self._chunks.append(data)
            self._wake()

    def finish(self, trailers: Fields = ()) -> None:
        """Say that the body is complete. A second call does nothing.

        Raises:
            OutboundError: HTTP-request-body-size if less was written than announced; the trailers' own faults. The
                request fails with the same code.
        """
        if self.finished:
            return
        if self.expected is not None and self.written != self.expected and self._error is None:
            self.abort(ErrorCode("HTTP-request-body-size", self.written))
            self._usable()
        try:
            check_fields(
                trailers,
                limit_bytes=self._limits.header_bytes,
                limit_count=self._limits.header_count,
                trailers=True,
            )
        except OutboundError as exc:
            self.abort(exc.code)
            raise
        self.trailers = trailers
        self.finished = True
        self._wake()

    def abort(self, code: ErrorCode | None = None) -> None:
        """Give the body up: the request fails with `code`, by default HTTP-protocol-error as in wasmtime."""
        if not self.finished and self._error is None:
            self._error = code or ErrorCode("HTTP-protocol-error")
            self._wake()

    def whole(self, most: int) -> bytes | None:
        """Engine: take all of it at once; None, and nothing is taken, if it is not complete or more than `most`."""
        if not self.finished or self._error is not None or self._held > most:
            return None
        self.taken = True
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        self._told()
        return data

    def close(self) -> None:
        """Engine: nobody will read on."""
        self._closed = True
        self._chunks.clear()
        self._held = 0
        self._told()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Engine: yield what the guest writes until it finishes. Raises OutboundError if it gave up."""
        self.taken = True
        while True:
            if self._error is not None:
                raise OutboundError(self._error)
            if self._chunks:
                chunk = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
                self._chunks.clear()
                yield chunk
                # Counted as held until the network took it, so that a slow origin holds the guest back.
                self._held = max(0, self._held - len(chunk))
                self._told()
            elif self.finished:
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
    """A response's body as it arrives. At most `buffer_bytes` wait here; the origin is held back beyond that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: OutboundLimits, told: Callable[[], None]) -> None:
        self._loop = loop
        self._limits = limits
        self._told = told
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._complete = False
        self._error: ErrorCode | None = None
        self._room: asyncio.Future[None] | None = None
        self.received = 0
        """Bytes that came from the origin so far."""
        self.trailers: Fields = ()
        """Trailer lines; final once `ended`."""

    def __repr__(self) -> str:
        state = "failed" if self._error else "complete" if self._complete else "open"
        return f"<ResponseBody {state}, {self.received} received, {self._held} held>"

    @property
    def held(self) -> int:
        """Bytes that `read` could return at once."""
        return self._held

    @property
    def ended(self) -> bool:
        """Whether all of it was read and it was complete."""
        return self._complete and not self._held

    def complete(self) -> bool:
        """Whether nothing more will arrive: the end came, or a failure."""
        return self._complete or self._error is not None

    def ready(self) -> bool:
        """Whether `read` would return bytes, the end or the failure."""
        return self._held > 0 or self.complete()

    def read(self, max_bytes: int) -> bytes:
        """Return up to `max_bytes` (at least 1) that have arrived; b"" if none have, or at the end (see `ended`).

        Raises:
            OutboundError: the exchange failed, and all that arrived before was read.
        """
        if not self._held:
            if self._error is not None:
                raise OutboundError(self._error)
            return b""
        first = self._chunks[0]
        if len(first) > max_bytes:
            self._chunks[0] = first[max_bytes:]
            taken = first[:max_bytes]
        elif len(self._chunks) == 1 or len(first) == max_bytes:
            taken = self._chunks.popleft()
        else:
            joined = b"".join(self._chunks)
            self._chunks.clear()
            taken = joined[:max_bytes]
            if len(joined) > max_bytes:
                self._chunks.append(joined[max_bytes:])
        self._held -= len(taken)
        if self._room is not None and self._held < self._limits.buffer_bytes and not self._room.done():
            self._room.set_result(None)
        return taken

    def feed(self, data: bytes) -> None:
        """Engine: bytes arrived. Raises OutboundError: HTTP-response-body-size over the limit."""
        self.received += len(data)
        if self.received > self._limits.body_bytes:
            raise OutboundError(ErrorCode("HTTP-response-body-size", self.received))
        if data:
            self._chunks.append(data)
            self._held += len(data)
            self._told()

    async def room(self) -> None:
        """Engine: wait until the guest has read enough."""
        if self._held >= self._limits.buffer_bytes:
            self._room = self._loop.create_future()
            await self._room

    def full(self) -> bool:
        """Engine: whether `room` would wait."""
        return self._held >= self._limits.buffer_bytes

    def end(self, trailers: Fields) -> None:
        """Engine: the last byte arrived."""
        self.trailers = trailers
        self._complete = True
        self._told()

    def fail(self, code: ErrorCode) -> None:
        """Engine: there will be no more."""
        if not self._complete and self._error is None:
            self._error = code
            self._told()

    def discard(self) -> None:
        """Forget what is held; used when the guest has dropped the body."""
        self._chunks.clear()
        self._held = 0

"""One HTTP/1.1 connection, as a connection of httpcore2's pool.

httpcore2's own one sends the whole request body before it looks for a response, drops trailers, and tells a connection
that was closed under it from one that broke by the text of a message. Guests may read a response while they still
write (wasi-http allows it), want trailers, and a request on a stale connection has to be repeated only when that is
safe. So the connection is ours, straight on h11; the pool stays httpcore2's.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from enum import Enum
from typing import Any

import h11
import httpcore2

from hostfuncs.outbound.errors import Cut, ErrorCode, OutboundError, Unanswered
from hostfuncs.outbound.network import Stream
from hostfuncs.outbound.passage import Passage

_READ_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 256 * 1024
_CONTINUE_WAIT_S = 1.0
"""How long a body waits for `100 Continue` before it is sent all the same (RFC 9110 section 10.1.1)."""


class _State(Enum):
    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    CLOSED = "closed"


class Http1Connection(httpcore2.AsyncConnectionInterface):
    """A standing connection that carries one request at a time."""

    def __init__(self, origin: httpcore2.Origin, stream: Stream, keepalive_s: float, era: Callable[[], int]) -> None:
        self._origin = origin
        self._stream = stream
        self._keepalive_s = keepalive_s
        self._era = era
        self._quiet_era = -1
        self._expires_at = 0.0
        self._state = _State.NEW
        self._served = 0
        self._h11 = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._sender: asyncio.Task[None] | None = None

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request and return its response, the body still to be read.

        Raises:
            ConnectionNotAvailable: another request has it.
            Unanswered, Cut: see there.
            h11.ProtocolError, OSError, ssl.SSLError, OutboundError: the exchange failed.
        """
        if self._state not in (_State.NEW, _State.IDLE):
            raise httpcore2.ConnectionNotAvailable()
        self._state = _State.ACTIVE
        passage: Passage = request.extensions["passage"]
        passage.reused = self._served > 0
        self._served += 1
        try:
            head = self._h11.send(
                h11.Request(method=request.method, target=request.url.target, headers=request.headers)
            )
            assert head is not None
            proceed: asyncio.Event | None = None
            if passage.body is None:
                head += self._h11.send(h11.EndOfMessage()) or b""
                await self._write(head)
            else:
                proceed = asyncio.Event() if passage.expects_continue else None
                await self._write(head)
                assert isinstance(request.stream, AsyncIterable)
                self._sender = asyncio.get_running_loop().create_task(self._send_body(request.stream, passage, proceed))
            response = await self._receive_head(proceed)
        except BaseException:
            await self.release(passage)
            raise
        return httpcore2.Response(
            status=response.status_code,
            headers=response.headers.raw_items(),
            content=_Body(self, passage),
            extensions={"http_version": b"HTTP/" + response.http_version},
        )

    async def _write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except OSError:
            # The origin may have answered before it closed; reading finds out.
            return

    async def _send_body(self, content: AsyncIterable[bytes], passage: Passage, proceed: asyncio.Event | None) -> None:
        try:
            if proceed is not None:
                try:
                    await asyncio.wait_for(proceed.wait(), _CONTINUE_WAIT_S)
                except TimeoutError:
                    proceed = None
            async for chunk in content:
                await self._stream.write(self._h11.send(h11.Data(data=chunk)) or b"")
            trailers = list(passage.body.trailers) if passage.body is not None else []
            await self._stream.write(self._h11.send(h11.EndOfMessage(headers=trailers)) or b"")
        except OutboundError as exc:
            passage.fail(exc)
        except OSError:
            # As in _write: what the origin said before it closed counts.
            return
        except h11.LocalProtocolError:
            passage.fail(OutboundError(ErrorCode("HTTP-protocol-error")))

    async def _receive_head(self, proceed: asyncio.Event | None) -> h11.Response:
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                if proceed is not None and not proceed.is_set() and self._sender is not None:
                    # The answer came instead of `100 Continue`: the origin does not want the body.
                    self._sender.cancel()
                return event
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    raise OutboundError(ErrorCode("HTTP-upgrade-failed"))
                if proceed is not None:
                    proceed.set()

    async def _next_event(self) -> Any:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            state = self._h11.their_state
            before = self._h11.trailing_data[0]
            try:
                data = await self._stream.read(_READ_BYTES)
            except OSError as exc:
                if isinstance(exc, ConnectionError) and state is h11.SEND_BODY:
                    raise Cut from exc
                if isinstance(exc, ConnectionError) and state is h11.SEND_RESPONSE and not before:
                    raise Unanswered from exc
                raise
            if not data:
                if state is h11.SEND_RESPONSE:
                    raise Cut if before else Unanswered
                self._h11.receive_data(b"")
                try:
                    return self._h11.next_event()
                except h11.RemoteProtocolError as exc:
                    raise Cut from exc
            self._h11.receive_data(data)

    async def next_data(self, passage: Passage) -> bytes | None:
        """Return the next piece of the response's body, None at its end; leaves trailers in the passage."""
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            passage.trailers = tuple(event.headers.raw_items())
        return None

    async def release(self, passage: Passage) -> None:
        """The exchange is over: keep the connection if both sides are done with it, else close it."""
        sender, self._sender = self._sender, None
        sending = sender is not None and not sender.done()
        if (
            not sending
            and self._state is _State.ACTIVE
            and self._h11.our_state is h11.DONE
            and self._h11.their_state is h11.DONE
            and not self._h11.trailing_data[0]
        ):
            self._h11.start_next_cycle()
            self._state = _State.IDLE
            self._expires_at = time.monotonic() + self._keepalive_s
        else:
            await self.aclose()
        if sender is not None and sending:
            # Not awaited: nothing here may be interrupted half-way.
            sender.cancel()

    async def aclose(self) -> None:
        """Close the connection at once."""
        self._state = _State.CLOSED
        await self._stream.aclose()

    # httpcore2.AsyncConnectionInterface: what the pool asks

    def can_handle_request(self, origin: httpcore2.Origin) -> bool:
        """Whether it leads there."""
        return origin == self._origin

    def is_connected(self) -> bool:
        """Whether it is not closed."""
        return self._state is not _State.CLOSED

    def is_available(self) -> bool:
        """Whether it can take a request."""
        return self._state is _State.IDLE

    def has_expired(self) -> bool:
        """Whether it must not be used again: too old, or the origin closed it while the loop stood still."""
        if self._state is not _State.IDLE:
            return False
        if time.monotonic() > self._expires_at or self._stream.noticed():
            return True
        # The pool asks every idle connection at every request; the kernel has to be asked only once after the loop
        # has stood still, because while it runs it notices a close itself.
        era = self._era()
        if era != self._quiet_era:
            if self._stream.stirred():
                return True
            self._quiet_era = era
        return False

    def is_idle(self) -> bool:
        """Whether nothing runs on it."""
        return self._state is _State.IDLE

    def can_multiplex(self) -> bool:
        """Never: one request at a time."""
        return False

    def is_closed(self) -> bool:
        """Whether it is closed."""
        return self._state is _State.CLOSED

    def info(self) -> str:
        """For people."""
        return f"{str(self._origin)!r}, HTTP/1.1, {self._state.name}, Request Count: {self._served}"

    def __repr__(self) -> str:
        return f"<Http1Connection [{self.info()}]>"


class _Body:
    """The content of a response: an async iterable the pool can close."""

    def __init__(self, connection: Http1Connection, passage: Passage) -> None:
        self._connection = connection
        self._passage = passage
        self._closed = False

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        try:
            while (chunk := await self._connection.next_data(self._passage)) is not None:
                yield chunk
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._connection.release(self._passage)

"""One HTTP/1.1 connection, based on h11.

httpcore2's connection does not fit: it sends the whole request body before it reads a response, it drops trailers, and
only the text of a message distinguishes a connection that was closed before the request from one that broke. Guests may
read a response while they still write (wasi-http allows it), they use trailers, and a request on a stale connection
must be repeated only if that is safe.
"""

import asyncio
import time
from enum import Enum
from typing import Any

import h11

from hostfuncs.outbound.attempt import Attempt, Occupied
from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.body import RequestBody
from hostfuncs.outbound.connector import Connector
from hostfuncs.outbound.errors import Cut, ErrorCode, OutboundError, Phase, Unanswered
from hostfuncs.outbound.fields import frames_twice
from hostfuncs.outbound.network import Stream
from hostfuncs.outbound.values import Fields

_READ_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 256 * 1024
_TOGETHER_BYTES = 64 * 1024
"""The longest body that is sent together with the head, if it is complete then."""
_CONTINUE_WAIT_S = 1.0
"""The time after which a body is sent even without `100 Continue` (RFC 9110 section 10.1.1)."""
_MOST_INTERIM = 64
"""The most interim responses before the response. The limit of a head applies to each of them separately."""
_END = h11.EndOfMessage()


class _State(Enum):
    NEW = "new"
    ACTIVE = "active"
    IDLE = "idle"
    CLOSED = "closed"


class Http1Connection:
    """A connection that carries one request at a time. It is also the `Reply` to that request.

    Parameters:
        origin: its origin.
        connector: opens its stream with the first request.
        keepalive_s: the longest time for which it may be idle.
        stream: its stream; None if it is not connected yet.
    """

    def __init__(self, origin: Origin, connector: Connector, keepalive_s: float, stream: Stream | None = None) -> None:
        self.origin = origin
        self.status = 0
        self.headers: Fields = ()
        self._connector = connector
        self._stream = stream
        self._keepalive_s = keepalive_s
        self._quiet_epoch = -1
        self._expires_at = 0.0
        self._state = _State.NEW
        self._served = 0
        self._h11 = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._attempt: Attempt | None = None
        self._sender: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Http1Connection {self._state.value}, {self._served} served>"

    async def request(self, attempt: Attempt) -> "Http1Connection":
        """Connect, unless it is connected, send a request and return its response, with the body still to be read.

        Raises:
            Occupied: it carries another request.
            Unanswered, Cut: it ended before, or within, a response.
            h11.ProtocolError, OSError, ssl.SSLError, OutboundError: the exchange failed.
        """
        if self._state is not _State.IDLE and self._state is not _State.NEW:
            raise Occupied
        self._state = _State.ACTIVE
        self._attempt = attempt
        attempt.reused = self._served > 0
        self._served += 1
        try:
            if self._stream is None:
                await self._connector.outbound.spawn(self._open(attempt))
                assert self._stream is not None
            attempt.enter(Phase.HEAD)
            proceed = self._send(self._stream, attempt)
            response = await self._receive_head(self._stream, proceed)
            headers = tuple([(bytes(name), bytes(value)) for name, value in response.headers.raw_items()])
            if frames_twice(headers):
                raise OutboundError(ErrorCode("HTTP-protocol-error"))
        except BaseException:
            self._release()
            raise
        self.status = response.status_code
        self.headers = headers
        return self

    async def _open(self, attempt: Attempt) -> None:
        # The task itself stores the stream. If the waiting exchange is cancelled just then, the stream is not lost.
        self._stream = await self._connector.open(self.origin, attempt)

    def _send(self, stream: Stream, attempt: Attempt) -> asyncio.Event | None:
        """Send the head, and the body if it is complete. Otherwise begin to send the body.

        Returns:
            the event that `100 Continue` sets; None if the request does not expect it.
        """
        plan, body = attempt.plan, attempt.body
        send = self._h11.send
        data = send(h11.Request(method=plan.method, target=plan.target, headers=attempt.headers)) or b""
        proceed: asyncio.Event | None = None
        if body is None:
            data += send(_END) or b""
        else:
            proceed = asyncio.Event() if _expects_continue(attempt.headers) else None
            whole = body.whole(_TOGETHER_BYTES) if proceed is None else None
            if whole is not None:
                try:
                    data += (send(h11.Data(data=whole)) or b"") + (
                        send(h11.EndOfMessage(headers=list(body.trailers))) or b""
                    )
                except h11.LocalProtocolError as exc:
                    raise OutboundError(ErrorCode("HTTP-protocol-error")) from exc
                body = None
        try:
            stream.push(data)
        except OSError:
            # The origin may have answered before it closed. Reading will tell.
            return proceed
        if body is not None:
            self._sender = self._connector.outbound.spawn(self._send_body(stream, body, attempt, proceed))
        return proceed

    async def _send_body(
        self, stream: Stream, body: RequestBody, attempt: Attempt, proceed: asyncio.Event | None
    ) -> None:
        try:
            if proceed is not None:
                try:
                    await asyncio.wait_for(proceed.wait(), _CONTINUE_WAIT_S)
                except TimeoutError:
                    proceed.set()  # the body is sent now, and a response that comes meanwhile does not stop it
            async for chunk in body:
                await stream.write(self._h11.send(h11.Data(data=chunk)) or b"")
            await stream.write(self._h11.send(h11.EndOfMessage(headers=list(body.trailers))) or b"")
        except OutboundError as exc:
            attempt.fail(exc)
        except OSError:
            # As in `_send`: the origin may have answered before it closed.
            return
        except h11.LocalProtocolError:
            attempt.fail(OutboundError(ErrorCode("HTTP-protocol-error")))

    async def _receive_head(self, stream: Stream, proceed: asyncio.Event | None) -> h11.Response:
        await self._fill(stream)
        interim = 0
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                await self._fill(stream)
            elif isinstance(event, h11.Response):
                if proceed is not None and not proceed.is_set() and self._sender is not None:
                    # The response came instead of `100 Continue`: the origin does not want the body.
                    self._sender.cancel()
                return event
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    raise OutboundError(ErrorCode("HTTP-upgrade-failed"))
                interim += 1
                if interim > _MOST_INTERIM:
                    raise OutboundError(ErrorCode("HTTP-response-header-section-size"))
                if proceed is not None:
                    proceed.set()

    async def _fill(self, stream: Stream) -> bool:
        """Feed the parser with the bytes that arrive next. Return False at the end of the stream."""
        try:
            data = await stream.read(_READ_BYTES)
        except ConnectionError as exc:
            state = self._h11.their_state
            if state is h11.SEND_BODY:
                raise Cut from exc
            if state is h11.SEND_RESPONSE and not self._h11.trailing_data[0]:
                raise Unanswered from exc
            raise
        if not data and self._h11.their_state is h11.SEND_RESPONSE:
            raise Cut if self._h11.trailing_data[0] else Unanswered
        self._h11.receive_data(data)
        return bool(data)

    async def next_data(self) -> bytes | None:
        """Return the next piece of the response's body; None at its end. The trailers are then in the attempt."""
        event: Any = self._h11.next_event()
        while event is h11.NEED_DATA:
            assert self._stream is not None
            if await self._fill(self._stream):
                event = self._h11.next_event()
            else:
                try:
                    event = self._h11.next_event()
                except h11.RemoteProtocolError as exc:
                    raise Cut from exc
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage) and event.headers and self._attempt is not None:
            self._attempt.trailers = tuple([(bytes(n), bytes(v)) for n, v in event.headers.raw_items()])
        return None

    async def release(self) -> None:
        """End the exchange: keep the connection if both sides are done with it, or else close it."""
        self._release()

    def _release(self) -> None:
        self._attempt = None
        self.headers = ()
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
            self.close()
        if sender is not None and sending:
            # The task is not awaited, because a cancellation must not interrupt this clean-up.
            sender.cancel()

    def close(self) -> None:
        """Close the connection at once."""
        self._state = _State.CLOSED
        if self._stream is not None:
            self._stream.abort()

    # for the pool

    def idle(self) -> bool:
        """Return whether it is connected and carries no request."""
        return self._state is _State.IDLE

    def stale(self) -> bool:
        """Return whether it must not be used again: it is too old, or the origin has closed it."""
        stream = self._stream
        if stream is None or time.monotonic() > self._expires_at or stream.saw_activity():
            return True
        # A running event loop notices a close. Only after a stop of the loop must the kernel be asked, once.
        loop_epoch = self._connector.outbound.loop_epoch
        if loop_epoch != self._quiet_epoch:
            if stream.has_activity():
                return True
            self._quiet_epoch = loop_epoch
        return False

    def shares(self) -> bool:
        """Return False: it carries one request at a time."""
        return False


def _expects_continue(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"expect" and value.lower() == b"100-continue" for name, value in headers)

"""Hypercorn's HTTP/2 with what it lacks.

- A response that cannot be completed is ended by RST_STREAM (RFC 9113, 8.1): Hypercorn forgets a stream whose
  application returned before the end of its response, and the peer waits for the rest for ever.
- A response may be complete before its request is (8.1): what then still comes is dropped, where Hypercorn would end
  the connection with a KeyError.
- What is buffered for a stream is freed when the caller cancels the stream or leaves: Hypercorn keeps it, and the
  application waits in it for ever.
- Frames that ask for nothing are counted, see `h2_floods`. Priorities are ignored (5.3.2 deprecates them): their tree
  is work that callers can order.
- Heads are examined as on the other servers, see `framing`; there is no CONNECT and so no WebSocket.
"""

import asyncio
import contextlib
import time
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import hypercorn.protocol
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import h2 as hypercorn_h2
from hypercorn.protocol.events import Body, EndBody, StreamClosed, Trailers
from hypercorn.protocol.h2 import BUFFER_LOW_WATER, H2Protocol, StreamBuffer

from sandboxd.front.http.trace_headers import refused
from sandboxd.front.servers import framing, h2_floods
from sandboxd.front.servers.refusals import Refusal, Refusals


class Buffer(StreamBuffer):
    """The buffer of a stream. Hypercorn's own asks for more whenever little was taken, even if nothing was."""

    async def pop(self, max_length: int) -> bytes:
        """See Hypercorn."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class BoundedH2Protocol(H2Protocol):
    """See the module."""

    refusals = Refusals()
    """Told of callers that are turned away."""
    linger_s = 30.0
    """The longest that a request may go on after its response."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._over = False
        """Whether the connection is being closed. What still arrives is ignored."""
        self._write = self.send
        self.send = self._send
        self._ended: set[int] = set()
        """Streams whose response is complete."""
        self._asked: set[int] = set()
        """Streams whose request is complete, and whose response is not."""
        self._lingering: dict[int, float] = {}
        """Streams whose response was complete before their request, and since when."""
        self._credit = h2_floods.Credit()
        self._frames = h2_floods.Frames()
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: self.config.h2_max_concurrent_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.config.h2_max_header_list_size,
            },
        )

    # what comes -------------------------------------------------------------------------------------------------------

    async def handle(self, event: Event) -> None:
        """See Hypercorn."""
        if isinstance(event, Closed):
            # Before Hypercorn ends the streams: it waits for their applications, which may wait for room in a buffer.
            await self._drop_buffered()
            await super().handle(event)
            await self._drop_buffered()
            return
        assert isinstance(event, RawData)
        first = True
        for piece, cost in self._frames.batches(event.data):
            if self._over or self.closed:
                return
            if cost and not self._credit.spend(cost):
                await self._calm_down()
                return
            if not first:
                await asyncio.sleep(0)
            first = False
            await super().handle(RawData(data=piece))

    async def _calm_down(self) -> None:
        self.refusals.add(Refusal.FLOOD)
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        await self._flush()
        await self.send(Closed())

    async def _send(self, event: Event) -> None:
        self._over = self._over or isinstance(event, Closed)
        await self._write(event)

    async def _drop_buffered(self) -> None:
        """Close the buffers of all streams, which are not sent any more."""
        for buffer in self.stream_buffers.values():
            await buffer.close()

    async def _handle_events(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id not in self.streams:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, RequestReceived) and (bad := _examine(event)) is not None:
                await self._refuse(event.stream_id, bad)
            else:
                if isinstance(event, StreamEnded | StreamReset):
                    self._lingering.pop(event.stream_id, None)
                    if event.stream_id in self.streams:
                        self._asked.add(event.stream_id)
                await super()._handle_events([event])
                if isinstance(event, StreamReset):
                    self._asked.discard(event.stream_id)
                    await self._forget(event.stream_id)
        await self._flush()

    def buffered(self) -> int:
        """Return the bytes that are held until the caller grants window for them."""
        return sum(len(buffer.buffer) for buffer in self.stream_buffers.values())

    def reset_lingering(self, now: float) -> None:
        """Reset streams whose caller goes on with a request that was answered long ago (RFC 9113, 8.1).

        Parameters:
            now: CLOCK_MONOTONIC. Seconds.
        """
        for stream_id, since in list(self._lingering.items()):
            if now - since > self.linger_s:
                del self._lingering[stream_id]
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)
                    self.refusals.add(Refusal.BODY_TIMEOUT)
                    # Sent with what is sent next; this must not wait for a caller who does not read.

    async def _refuse(self, stream_id: int, bad: framing.BadHead) -> None:
        self.refusals.add(Refusal.MALFORMED)
        kind, text = bad.content()
        headers = [
            (b":status", b"%d" % bad.status),
            (b"content-type", kind),
            (b"content-length", b"%d" % len(text)),
            *refused(None, bad.status, bad.reason),
        ]
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.send_headers(stream_id, headers)
            if self.connection.local_flow_control_window(stream_id) >= len(text):
                self.connection.send_data(stream_id, text, end_stream=True)
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.NO_ERROR)

    async def _priority_updated(self, event: Any) -> None:
        pass

    # what goes --------------------------------------------------------------------------------------------------------

    async def stream_send(self, event: Any) -> None:
        """See Hypercorn."""
        if isinstance(event, Body):
            self._credit.earn(len(event.data) * h2_floods.PER_BYTE_SENT)
        elif isinstance(event, EndBody | Trailers):
            self._ended.add(event.stream_id)
        elif isinstance(event, StreamClosed):
            if event.stream_id in self.streams:
                if event.stream_id not in self._ended:
                    await self._reset(event.stream_id)
                else:
                    self._credit.earn(h2_floods.PER_ANSWER)
                    if event.stream_id not in self._asked:
                        self._lingering[event.stream_id] = time.monotonic()
            self._asked.discard(event.stream_id)
            self._ended.discard(event.stream_id)
        await super().stream_send(event)

    async def _reset(self, stream_id: int) -> None:
        try:
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        except h2.exceptions.ProtocolError:
            return  # the peer was first
        await self._flush()
        await self._forget(stream_id)

    async def _forget(self, stream_id: int) -> None:
        """Free what is buffered for a stream that was reset, and wake whoever waits for room in its buffer."""
        buffer: StreamBuffer | None = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()
            # The sending task finds it complete, and removes it.
            await self._window_updated(stream_id)


def _examine(event: Any) -> framing.BadHead | None:
    """Return why the request is refused, if it is. Only what h2 leaves open is checked."""
    method = path = b""
    hosts = set()
    for name, value in event.headers:
        if name == b":method":
            method = value
        elif name == b":path":
            path = value
        elif name in (b":authority", framing.HOST):
            hosts.add(value)
    try:
        framing.check_method(method)
        if method == b"CONNECT":
            raise framing.BadHead(400, "CONNECT is for proxies")
        if framing.split(method, path).authority is not None:
            raise framing.BadHead(400, "the path is a whole URL")
        if len(hosts) > 1:
            raise framing.BadHead(400, "Host and :authority differ")
    except framing.BadHead as bad:
        return bad
    return None


def install(refusals: Refusals, linger_s: float) -> None:
    """Have Hypercorn use it for all connections accepted from now on. It offers no other way to choose.

    Parameters:
        refusals: told of callers that are turned away.
        linger_s: how long a request may go on after its response. Seconds.
    """
    BoundedH2Protocol.refusals = refusals
    BoundedH2Protocol.linger_s = linger_s
    vars(hypercorn.protocol)[H2Protocol.__name__] = BoundedH2Protocol
    vars(hypercorn_h2)[StreamBuffer.__name__] = Buffer

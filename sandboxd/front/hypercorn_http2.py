"""Hypercorn's HTTP/2 with two things it lacks, both of RFC 9113, 8.1.

A response that cannot be completed is ended by RST_STREAM: Hypercorn forgets a stream whose application returned before
the end of its response, and the peer waits for the rest for ever. And a response may be complete before its request is:
what then still comes is dropped, where Hypercorn would end the connection with a KeyError.
"""

import contextlib
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import hypercorn.protocol
from hypercorn.protocol.events import EndBody, StreamClosed, Trailers
from hypercorn.protocol.h2 import H2Protocol


class ResettingH2Protocol(H2Protocol):
    """Resets streams that the application leaves unfinished."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ended: set[int] = set()

    async def stream_send(self, event: Any) -> None:
        """See Hypercorn."""
        if isinstance(event, EndBody | Trailers):
            self._ended.add(event.stream_id)
        elif isinstance(event, StreamClosed):
            if event.stream_id in self.streams and event.stream_id not in self._ended:
                await self._reset(event.stream_id)
            self._ended.discard(event.stream_id)
        await super().stream_send(event)

    async def _handle_events(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                await self._flush()
            else:
                await super()._handle_events([event])

    async def _reset(self, stream_id: int) -> None:
        try:
            self.connection.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        except h2.exceptions.ProtocolError:
            return  # the peer was first
        await self._flush()
        # The sending task finds it gone, and lets go of what is left in its buffer.
        await self._window_updated(stream_id)


def install() -> None:
    """Have Hypercorn use it for all connections accepted from now on. It offers no other way to choose."""
    vars(hypercorn.protocol)[H2Protocol.__name__] = ResettingH2Protocol

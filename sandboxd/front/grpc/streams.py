"""The streams of a connection: how calls begin, are fed, and end, by the frames that belong to a stream.

A stream is half-closed by an early answer; what its caller still sends is read and dropped, so that callers who read
nothing before they have sent all get their answer, too.
"""

import time
from typing import Final, Protocol

from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc.calls import Call, Methods
from sandboxd.front.grpc.feeding import feed
from sandboxd.front.grpc.frames import ConnectionBroken, ErrorCode, StreamBroken
from sandboxd.front.grpc.header_blocks import SPARE_BYTES, HeaderBlocks
from sandboxd.front.grpc.heads import Head
from sandboxd.front.grpc.status import Code, GrpcError
from sandboxd.front.grpc.upkeep import Upkeep
from sandboxd.front.servers import h2_floods
from sandboxd.front.servers.connections import Connections
from sandboxd.front.servers.refusals import Refusal, Refusals

STREAMS: Final = 100
"""The most calls at once on one connection, as in Go's server."""
STREAM_WINDOW: Final = 1024 * 1024
CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""What a caller may send before it is granted more."""
UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""What is held of messages that are not whole, on one connection; never less than four of the longest ones."""
LONG_NS: Final = 1_000_000_000
"""To cancel a call that has lasted this long, or until its deadline, costs nothing: it was no rapid reset."""
_RESETS: Final = 256
"""So many streams are known as reset by this side: what was on its way for them is ignored."""


class Shared(Protocol):
    """What the streams of a server have in common."""

    methods: Methods
    table: Connections
    refusals: Refusals
    max_message_bytes: int
    max_header_bytes: int


class Streams(Upkeep):
    """See the module.

    Parameters:
        shared: of the server.
    """

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.table, shared.refusals)
        self._shared = shared
        self._blocks = HeaderBlocks(shared.max_header_bytes)
        self._block: tuple[int, int, list[bytes]] | None = None
        """A header block that is not whole: its stream, the flags of its first frame, its parts."""
        self._block_bytes = 0
        self._last = 0
        """The last stream that the caller has opened."""
        self._goaway = f.ALL_STREAMS
        """The last stream that is answered."""
        self._resets: dict[int, None] = {}
        self._window_in = CONNECTION_WINDOW
        self._taken = 0
        self._cost = 0.0
        """Of the frames of this batch, see `h2_floods`."""
        self._crowded = False
        """Whether there was no room for the connection: open methods only are answered."""
        self._over = False
        """Whether the connection is being closed: nothing is handled any more."""

    # headers ----------------------------------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost += 1
        if not stream & 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that callers cannot open")
        itself = False
        if flags & (f.PADDED | f.PRIORITISED):
            payload = f.unpadded(flags, payload)
            if flags & f.PRIORITISED:
                if len(payload) < 5:
                    raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without its priority")
                itself = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream
                payload = payload[5:]
        if not flags & f.END_HEADERS:
            self._block = (stream, flags, [payload])
            self._block_bytes = len(payload)
            self.block_since = time.monotonic()
            return
        self._on_block(stream, flags, payload, itself=itself)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost += 1
        if self._block is None or self._block[0] != stream:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of no header block")
        _, first, parts = self._block
        parts.append(payload)
        self._block_bytes += len(payload)
        if self._block_bytes > self._shared.max_header_bytes + SPARE_BYTES:
            raise ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "the headers are too large")
        if flags & f.END_HEADERS:
            self._block = self.block_since = None
            self._on_block(stream, first, b"".join(parts))

    def _on_block(self, stream: int, flags: int, block: bytes, *, itself: bool = False) -> None:
        """Handle a whole header block. It is decoded in any case: later ones depend on it."""
        head = self._blocks.head(block)
        call = self.calls.get(stream)
        if call is not None:
            self._on_trailers(call, head, flags)
            return
        if stream <= self._last:
            if stream in self._resets:
                return
            raise ConnectionBroken(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
        self._last = stream
        ended = bool(flags & f.END_STREAM)
        if head.malformed or itself or (ended and head.content_length > 0):
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR)
        if len(self.calls) >= STREAMS or stream > self._goaway:
            raise StreamBroken(ErrorCode.REFUSED_STREAM)
        call = Call(
            stream, head, self.out, time.monotonic_ns(), window_in=STREAM_WINDOW, window_out=self.out.initial_window
        )
        self.calls[stream] = call
        try:
            self._shared.methods.admit(call, crowded=self._crowded)
        except GrpcError as error:
            if self._crowded:
                self.refusals.add(Refusal.CONNECTIONS)
            call.fail(error)
        if ended:
            self._feed(call, b"", end=True)

    def _on_trailers(self, call: Call, head: Head, flags: int) -> None:
        if call.ended:
            raise StreamBroken(ErrorCode.STREAM_CLOSED)
        if head.malformed_trailers or not flags & f.END_STREAM:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR)
        if call.body_left > 0:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR)
        self._feed(call, b"", end=True)

    # data -------------------------------------------------------------------------------------------------------------

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._cost += h2_floods.price(f.DATA, flags, size)
        self._window_in -= size
        if self._window_in < 0:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window allows")
        self._taken += size
        call = self.calls.get(stream)
        if self._taken >= CONNECTION_WINDOW // 2:
            self.out.put(f.window_update(0, self._taken))
            self._window_in += self._taken
            self._taken = 0
            self._bound_unfinished()
        if flags & f.PADDED:
            payload = f.unpadded(flags, payload)
        if call is None:
            self._on_stray(stream)
            return
        if call.ended:
            raise StreamBroken(ErrorCode.STREAM_CLOSED)
        call.window_in -= size
        if call.window_in < 0:
            raise StreamBroken(ErrorCode.FLOW_CONTROL_ERROR)
        end = bool(flags & f.END_STREAM)
        if call.head.content_length >= 0:
            call.body_left -= len(payload)
            if call.body_left < 0 or (end and call.body_left):
                raise StreamBroken(ErrorCode.PROTOCOL_ERROR)
        self._feed(call, payload, end=end)
        if end:
            return
        call.taken += size
        if call.taken >= STREAM_WINDOW // 2:
            self.out.put(f.window_update(stream, call.taken))
            call.window_in += call.taken
            call.taken = 0

    def _bound_unfinished(self) -> None:
        """Refuse the latest calls if too much is held of messages that are not whole."""
        held = sum(call.body.received for call in self.calls.values() if call.body is not None)
        most = max(UNFINISHED_BYTES, 4 * self._shared.max_message_bytes)
        if held <= most:
            return
        for call in reversed(list(self.calls.values())):
            if call.body is not None and held > most:
                held -= call.body.received
                text = f"the unfinished messages of one connection are longer than {most} bytes"
                call.fail(GrpcError(Code.RESOURCE_EXHAUSTED, text))

    def _on_stray(self, stream: int) -> None:
        """Handle data on a stream that is not open."""
        if stream > self._last or not stream & 1:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that is not open")
        if stream not in self._resets:
            raise ConnectionBroken(ErrorCode.STREAM_CLOSED, "DATA on a closed stream")

    def _feed(self, call: Call, payload: bytes, *, end: bool) -> None:
        """Take what came on a stream, and whether its caller has ended its side."""
        call.ended = end
        feed(call, payload, self.out, max_bytes=self._shared.max_message_bytes, end=end)
        if end and call.sent:
            self.over(call)

    def over(self, call: Call) -> None:
        """A side of a stream has ended: forget it if both have."""
        if call.ended and call.sent and self.calls.pop(call.id, None) is not None and not self.calls:
            self.idle_at = time.monotonic()
            if self._goaway != f.ALL_STREAMS:
                self._over = True
                self.out.flush()
                self.transport.close()

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream."""
        self.out.put(f.reset(stream, code))
        self._resets[stream] = None
        if len(self._resets) > _RESETS:
            del self._resets[next(iter(self._resets))]
        self._drop(stream)

    def _drop(self, stream: int) -> Call | None:
        call = self.calls.get(stream)
        if call is not None:
            call.give_up()
            self.out.forget(call)
            call.ended = call.sent = True
            self.over(call)
        return call

    # what ends or orders streams --------------------------------------------------------------------------------------

    def _on_priority(self, _flags: int, stream: int, payload: bytes) -> None:
        self._cost += 1
        if not stream:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "PRIORITY of no stream")
        if len(payload) != 5:
            raise StreamBroken(ErrorCode.FRAME_SIZE_ERROR)
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream:
            raise StreamBroken(ErrorCode.PROTOCOL_ERROR)

    def _on_reset(self, _flags: int, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM has not four bytes")
        if not stream or stream > self._last:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "RST_STREAM of a stream that is not open")
        call = self._drop(stream)
        now = time.monotonic_ns()
        if call is None or not (now - call.began_ns > LONG_NS or (call.deadline_ns or now + 1) <= now):
            self._cost += h2_floods.price(f.RST_STREAM, 0, 4)

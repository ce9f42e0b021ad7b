"""A connection of an HTTP/2 server that serves gRPC: reads frames, and drives the calls of its streams.

It is strict: what RFC 9113 calls an error ends the stream or the connection. Each connection has credit for frames that
ask for nothing, as over HTTP (`h2_floods`), and what was read is handled in batches, so that no caller holds the event
loop for long.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc.frames import ConnectionBroken, ErrorCode, StreamBroken
from sandboxd.front.grpc.outgoing import Outgoing
from sandboxd.front.grpc.streams import CONNECTION_WINDOW, STREAM_WINDOW, STREAMS, Shared, Streams
from sandboxd.front.servers import h2_floods
from sandboxd.front.servers.refusals import Refusal

BATCH: Final = h2_floods.BATCH
_DRAINING: Final = b"draining"
"""The payload of the PING that follows the first GOAWAY."""
_HTTP1: Final = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
    b"content-length: 45\r\n\r\nThis port serves gRPC, which is over HTTP/2.\n"
)
_HTTP1_METHODS: Final = tuple(
    f"{name} ".encode() for name in ["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"]
)


class Server(Shared, Protocol):
    """What the connections of a server have in common."""

    draining: bool

    def made(self, connection: "Connection") -> None:
        """A connection is there."""

    def lost(self, connection: "Connection") -> None:
        """A connection is closed."""


class Connection(Streams, asyncio.Protocol):
    """See the module.

    Parameters:
        server: whose connection it is.
        entering: called when the connection is there, before it takes a place among the others.
    """

    def __init__(self, server: Server, entering: Callable[[], None] = lambda: None) -> None:
        super().__init__(server)
        self._server = server
        self._entering = entering
        self._credit = h2_floods.Credit(self.made)
        self._rest = b""
        """What came and is not handled yet."""
        self._continues = False
        """Whether the event loop will go on to handle it."""
        self._begun = False
        """Whether the preface has come."""
        self._handlers = (
            self._on_data, self._on_headers, self._on_priority, self._on_reset, self._on_settings, self._on_push,
            self._on_ping, self._on_goaway, self._on_window, self._on_continuation,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Connection of {self.peer or 'a Unix socket'}, {len(self.calls)} calls>"

    # asyncio ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as asyncio calls it
        self.transport = transport
        name = transport.get_extra_info("peername")
        self.peer = name[0] if isinstance(name, tuple) else ""
        self.out = Outgoing(
            transport,
            self.over,
            self._earn,
            partial(self._server.table.wrote, self),
            self.limits.max_unread_bytes,
            partial(self._server.refusals.add, Refusal.UNREAD),
        )
        self._server.made(self)
        self._entering()
        self._crowded = not self._server.table.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._rest = b""
        self._server.table.leave(self)
        self._give_up()
        self._server.lost(self)

    def _give_up(self) -> None:
        """Give up all calls: nobody will hear of them."""
        for call in list(self.calls.values()):
            call.give_up()
            self.out.forget(call)
        self.calls.clear()

    def pause_writing(self) -> None:
        # Who does not read its answers is not asked for more.
        self.out.paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.out.paused = False
        if not self._continues and not self._over:
            self.transport.resume_reading()
        self.out.pump()

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        self.fed = True
        self._rest = self._rest + data if self._rest else data
        if not self._continues:
            self._parse()

    # frames -----------------------------------------------------------------------------------------------------------

    def _parse(self) -> None:
        self._continues = False
        if self._over:
            self._rest = b""
            return
        self.out.hurry()
        try:
            self._rest = self._handle(self._rest)
            self.partial = bool(self._rest)
        except ConnectionBroken as broken:
            self._break(broken)
            return
        if self._cost:
            cost, self._cost = self._cost, 0.0
            if not self._credit.spend(cost, self.heard):
                self._break(ConnectionBroken(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing"))
                return
        self.out.flush()

    def _handle(self, data: bytes) -> bytes:
        """Handle the frames in what was received. Return what is not handled.

        Raises:
            ConnectionBroken: the connection cannot go on.
        """
        at = 0 if self._begun else self._preface(data)
        if not self._begun:
            return data
        size = len(data)
        count = 0
        while size - at >= f.HEAD_BYTES and not self._over:
            high, low, kind, flags, stream = f.read_head(data, at)
            length = high << 8 | low
            if length > f.LEAST_FRAME_BYTES:
                raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "a frame is longer than allowed")
            end = at + f.HEAD_BYTES + length
            if end > size:
                break
            if count == BATCH:
                self._go_on_soon()
                break
            count += 1
            payload = data[at + f.HEAD_BYTES : end]
            at = end
            stream &= 0x7FFFFFFF
            if self._block is not None and kind != f.CONTINUATION:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "another frame within a header block")
            if not self.settled and kind != f.SETTINGS:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            if kind > f.CONTINUATION:
                self._cost += 1  # a type that is not known is ignored (RFC 9113, 4.1)
                continue
            try:
                self._handlers[kind](flags, stream, payload)
            except StreamBroken as broken:
                self.reset(stream, broken.code)
        return data[at:] if at else data

    def _go_on_soon(self) -> None:
        """Handle the rest in the next turn of the event loop, and read nothing until then."""
        self._continues = True
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._parse()
        if not self._continues and not self._over and not self.out.paused:
            self.transport.resume_reading()

    def _preface(self, data: bytes) -> int:
        """Answer the preface, once it is there. Return its length."""
        if not f.PREFACE.startswith(data[: len(f.PREFACE)]):
            if data.startswith(_HTTP1_METHODS):
                self.transport.write(_HTTP1)
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "")
        if len(data) < len(f.PREFACE):
            return 0
        self._begun = True
        values = (
            (f.MAX_CONCURRENT_STREAMS, STREAMS),
            (f.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (f.MAX_HEADER_LIST_SIZE, self._server.max_header_bytes),
        )
        self.out.put(f.settings(values) + f.window_update(0, CONNECTION_WINDOW - f.WINDOW))
        if self._server.draining:
            self.leave()
        return len(f.PREFACE)

    def _break(self, broken: ConnectionBroken) -> None:
        """End the connection, and tell why."""
        flood = broken.code is ErrorCode.ENHANCE_YOUR_CALM
        self.refusals.add(Refusal.FLOOD if flood else Refusal.MALFORMED)
        self._over = True
        self._rest = b""
        if self._begun:
            self.out.put(f.goaway(self._last, broken.code, broken.text))
        self.out.flush()
        self._give_up()
        # Until it is closed it stays in the table, whose sweep cuts off who does not read what was written.
        if flood and self.transport.get_write_buffer_size():
            self.transport.abort()  # who floods may read nothing
        else:
            self.transport.close()

    def _earn(self, size: int) -> None:
        self._credit.earn(h2_floods.PER_ANSWER + size * h2_floods.PER_BYTE_SENT)

    # the other frames -------------------------------------------------------------------------------------------------

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost += 1 + len(payload) / 64
        if stream:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % 6 or (flags & f.ACK and payload):
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        if flags & f.ACK:
            return
        self.settled = True
        for name, value in f.settings_of(payload):
            if name == f.INITIAL_WINDOW_SIZE:
                self._resize(value)
            elif name == f.MAX_FRAME_SIZE:
                if not f.LEAST_FRAME_BYTES <= value <= f.MOST_FRAME_BYTES:
                    raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of its range")
                self.out.max_frame = min(value, f.MOST_FRAME_BYTES)
            elif name == f.ENABLE_PUSH and value > 1:
                raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        self.out.put(f.frame(f.SETTINGS, f.ACK, 0))

    def _resize(self, value: int) -> None:
        """All windows of streams change with the initial one (RFC 9113, 6.9.2)."""
        if value > f.MOST_WINDOW:
            raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is out of its range")
        more = value - self.out.initial_window
        self.out.initial_window = value
        for call in self.calls.values():
            call.window_out += more
            if call.window_out > f.MOST_WINDOW:
                raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "a window is larger than 2^31-1")
        self.out.pump()

    def _on_push(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        self._cost += 1
        if stream:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "PING has not eight bytes")
        if not flags & f.ACK:
            self.out.put(f.frame(f.PING, f.ACK, 0, payload))
        elif payload == _DRAINING and self._server.draining:
            self.leave_now()

    def _on_goaway(self, _flags: int, stream: int, payload: bytes) -> None:
        self._cost += 1
        if stream:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY has less than eight bytes")

    def _on_window(self, _flags: int, stream: int, payload: bytes) -> None:
        self._cost += 1
        if len(payload) != 4:
            raise ConnectionBroken(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE has not four bytes")
        size = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if stream > self._last:
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that is not open")
        if not size:
            if stream:
                raise StreamBroken(ErrorCode.PROTOCOL_ERROR)
            raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        call = self.calls.get(stream)
        if call is not None or not stream:
            self.out.enlarge(call, size)

    # the end ----------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Ask the caller to open no more calls here (RFC 9113, 6.8): once it has heard of that, the second GOAWAY says
        which calls are answered. Those that were on their way meanwhile are among them.
        """
        if self._over:
            return
        if not self._begun:
            self.close()
            return
        self.out.put(f.goaway(f.ALL_STREAMS, ErrorCode.NO_ERROR) + f.frame(f.PING, 0, 0, _DRAINING))

    def leave_now(self) -> None:
        """Answer the calls that have come, and no more; then close the connection."""
        if self._over or self._goaway != f.ALL_STREAMS:
            return
        self.close()

    def close(self) -> None:
        """See `sandboxd.front.servers.connections.Connection`: calls that have come are answered."""
        if self._over:
            return
        if self._begun and self._goaway == f.ALL_STREAMS:
            self._goaway = self._last
            self.out.put(f.goaway(self._last, ErrorCode.NO_ERROR))
        if not self.calls:
            self._over = True
            self.out.flush()
            self.transport.close()

    def abort(self) -> None:
        """See `sandboxd.front.servers.connections.Connection`."""
        self._over = True
        self.transport.abort()

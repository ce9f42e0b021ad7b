"""A caller over HTTP/2, frame by frame, of a `Connection` whose transport is in memory."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hpack import Decoder, Encoder

from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc.calls import Abandon, Admitted, Call, Method, Methods, at_once
from sandboxd.front.grpc.connection import Connection
from sandboxd.front.grpc.server import GrpcConfig, GrpcServer
from sandboxd.front.servers.connections import CallerLimits
from sandboxd.metrics import Metrics

GRPC = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/Echo"), (b":authority", b"x"),
    (b"te", b"trailers"), (b"content-type", b"application/grpc"), (b"user-agent", b"test"),
]  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """A frame from the server."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Answer:
    """What came on one stream."""

    head: dict[bytes, bytes] = field(default_factory=dict)
    data: bytes = b""
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The status of the call."""
        return int((self.trailers or self.head)[b"grpc-status"])

    @property
    def text(self) -> bytes:
        """The status's message."""
        return (self.trailers or self.head).get(b"grpc-message", b"")


class Transport:
    """Takes what is written, as fast as it comes unless `slow`."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = self.aborted = False
        self.reading = True
        self.slow = False
        self.connection: Any = None

    def write(self, data: bytes) -> None:
        self.written += data
        if self.slow and len(self.written) > 65536:
            self.connection.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.slow else 0

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 5) if name == "peername" else None

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        if not self.closing and not self.get_write_buffer_size():
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)
        self.closing = True

    def abort(self) -> None:
        if not self.aborted and (not self.closing or self.get_write_buffer_size()):
            asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)
        self.aborted = self.closing = True


class Peer:
    """See the module.

    Parameters:
        limits: of the server's callers.
        greets: send the preface and empty settings first.
        max_message_bytes: of the server.
    """

    def __init__(self, *, greets: bool = True, max_message_bytes: int = 4 << 20, **limits: Any) -> None:
        self.calls: list[Call] = []
        self.messages: list[bytes] = []
        self.abandoned: list[Call] = []
        self.config = GrpcConfig(max_message_bytes=max_message_bytes, callers=CallerLimits(**limits))
        self.metrics = Metrics(version="test")
        methods = {
            "/a/Echo": at_once(lambda call: call.message),
            "/a/Headers": at_once(lambda call: repr(call.headers).encode()),
            "/a/Big": at_once(lambda call: b"x" * int(call.message)),
            "/a/Bug": at_once(lambda _: 1 // 0),  # type: ignore[arg-type,return-value]
            "/a/Wait": Method(begin=self._wait),
            "/a/Each": Method(begin=lambda _: None, each=lambda message: message * 2, open=True),
        }
        self.server = GrpcServer(Methods(methods, Admitted), self.config, self.metrics)
        self.connect(greets=greets)

    def connect(self, *, greets: bool = True) -> None:
        """Another connection to the server; the former one stays as it is."""
        self.encoder, self.decoder = Encoder(), Decoder()
        self.connection = Connection(self.server)
        self.transport = Transport()
        self.transport.connection = self.connection
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.answers: dict[int, Answer] = {}
        self.frames: list[Frame] = []
        if greets:
            self.send(f.PREFACE + f.settings(()))

    def _wait(self, call: Call) -> Abandon:
        self.calls.append(call)
        self.messages.append(call.message)
        return lambda: self.abandoned.append(call)

    def turned_away(self, reason: str) -> float:
        """The metric."""
        found = self.metrics.registry.get_sample_value("sandboxd_callers_turned_away_total", {"reason": reason})
        return found or 0.0

    # sending ----------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Let the server have bytes."""
        if not self.transport.closing:
            self.connection.data_received(data)
        self.read()

    def headers(self, stream: int, fields: Any = GRPC, *, end: bool = False, flags: int = f.END_HEADERS) -> None:
        """Open a stream."""
        block = self.encoder.encode(fields)
        self.send(f.frame(f.HEADERS, flags | (f.END_STREAM if end else 0), stream, block))

    def data(self, stream: int, message: bytes, *, end: bool = True, flag: int = 0) -> None:
        """Send a message on a stream, in frames as long as they may be."""
        rest = bytes((flag,)) + len(message).to_bytes(4, "big") + message
        while True:
            piece, rest = rest[: f.LEAST_FRAME_BYTES], rest[f.LEAST_FRAME_BYTES :]
            self.send(f.frame(f.DATA, f.END_STREAM if end and not rest else 0, stream, piece))
            if not rest:
                return

    def call(self, stream: int, path: bytes = b"/a/Echo", message: bytes = b"hi", *more: tuple[bytes, bytes]) -> Answer:
        """Make a whole call."""
        fields = [(name, path if name == b":path" else value) for name, value in GRPC]
        self.headers(stream, [*fields, *more])
        self.data(stream, message)
        return self.answers.setdefault(stream, Answer())

    # reading ----------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take the frames that the server has written."""
        data, self.transport.written = self.transport.written, b""
        while data:
            high, low, kind, flags, stream = f.read_head(data)
            end = f.HEAD_BYTES + (high << 8 | low)
            assert end <= len(data), "a frame is written whole"
            self._take(Frame(kind, flags, stream, data[f.HEAD_BYTES : end]))
            data = data[end:]

    def _take(self, frame: Frame) -> None:
        self.frames.append(frame)
        answer = self.answers.setdefault(frame.stream, Answer())
        if frame.kind == f.HEADERS:
            assert frame.flags & f.END_HEADERS
            fields = dict(self.decoder.decode(frame.payload, raw=True))
            if answer.head:
                answer.trailers = fields
            else:
                answer.head = fields
        elif frame.kind == f.DATA:
            answer.data += frame.payload
        elif frame.kind == f.RST_STREAM:
            answer.reset = int.from_bytes(frame.payload, "big")
        if frame.kind in (f.HEADERS, f.DATA) and frame.flags & f.END_STREAM:
            answer.ended = True

    async def turns(self, count: int = 5) -> None:
        """Let the event loop go on, and read."""
        for _ in range(count):
            await asyncio.sleep(0)
        self.read()

    @property
    def goaway(self) -> int | None:
        """The error code of the last GOAWAY; None if none came."""
        found = [frame for frame in self.frames if frame.kind == f.GOAWAY]
        return int.from_bytes(found[-1].payload[4:8], "big") if found else None


def run(test: Callable[[], Any]) -> None:
    """Run an async test."""
    asyncio.run(test())

"""Callers over HTTP/2 who cancel, hang up, or make the server work for nothing."""

import contextlib
import select
import socket
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.server.callers import MIB, connect, resident
from tests.server.fronts import Front, started
from tests.waiting import BOUND_S, until

pytestmark = pytest.mark.slow
"""Floods, and responses of many megabytes."""

BIG = b'{"operation":"execute","metadata":{"args":"do=big"}}'
HANG = b'{"operation":"execute","metadata":{"args":"do=hang"}}'
ECHO = b'{"operation":"execute","data":1}'
ENHANCE_YOUR_CALM = 0xB
MEBIBYTES_16 = 16 * MIB


class Caller:
    """A caller over HTTP/2 with prior knowledge."""

    def __init__(self, front: Front) -> None:
        self.socket = connect(front)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def post(self, body: bytes, *, method: str = "POST", path: str = "/v1.0/bindings/echo", end: bool = True) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "x")]
        self.h2.send_headers(stream, head, end_stream=end and not body)
        if body:
            self.h2.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def events(self) -> Iterator[h2.events.Event]:
        """What comes, for as long as the connection is open."""
        with contextlib.suppress(ConnectionError):
            while data := self.socket.recv(65536):
                yield from self.h2.receive_data(data)
                self.flush()

    def answer(self, stream: int) -> tuple[int, bytes]:
        """Status and body of one response."""
        status, body = 0, b""
        for event in self.events():
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                status = int(dict(event.headers)[":status"])
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.flush()
                body += event.data if event.stream_id == stream else b""
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset) and event.stream_id == stream:
                break
        return status, body

    def take(self, size: int) -> None:
        """Read so much of what comes."""
        taken = 0
        for event in self.events():
            if isinstance(event, h2.events.DataReceived):
                taken += len(event.data)
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self.flush()
                if taken >= size:
                    return


@contextlib.contextmanager
def calling(front: Front) -> Iterator[Caller]:
    caller = Caller(front)
    with caller.socket:
        yield caller


@pytest.mark.parametrize("how", ["cancel", "hang up", "cancel unread", "hang up unread"])
def test_a_long_response_that_is_given_up_leaves_nothing(how: str) -> None:
    with started("hypercorn", drain=300) as front:
        with calling(front) as caller:
            assert caller.answer(caller.post(BIG))[0] == 200
        usual = resident(front)
        with calling(front) as kept:
            for _ in range(6):
                caller = kept if "cancel" in how else Caller(front)
                streams = [caller.post(BIG) for _ in range(2)]
                if "unread" not in how:
                    caller.take(30_000)
                if "cancel" in how:
                    for stream in streams:
                        caller.h2.reset_stream(stream, error_code=8)
                    caller.flush()
                else:
                    caller.socket.close()
            # 12 responses of 16 MiB; a few may be under way.
            until(lambda: resident(front) < usual + 96 * MIB, "the memory is given back")
            if "cancel" in how:
                assert kept.answer(kept.post(ECHO)) == (200, b"1")
        assert front.end() == 0  # nothing is waited for
    assert front.log == ""


FLOODS: dict[str, list[Frame]] = {
    "settings": [SettingsFrame(0)],
    "settings with windows": [SettingsFrame(0, {4: 1}), SettingsFrame(0, {4: 70000})],
    "settings acknowledged": [SettingsFrame(0, flags=["ACK"])],
    "ping": [PingFrame(0, b"12345678")],
    "ping acknowledged": [PingFrame(0, b"12345678", flags=["ACK"])],
    "priority": [PriorityFrame(3, depends_on=0, stream_weight=3)],
    "priority of many": [PriorityFrame(n, depends_on=n + 2, stream_weight=3) for n in range(1, 4001, 2)],
    "window": [WindowUpdateFrame(0, 1)],
    "window of a stream": [WindowUpdateFrame(1, 1)],
    "empty data": [DataFrame(1, b"")],
    "padding": [DataFrame(1, b"", pad_length=200, flags=["PADDED"])],
    "resets": [RstStreamFrame(1, 8)],
}


def pour(caller: Caller, frames: bytes, most: int = 32 * MIB) -> bytes:
    """Send frames until the server ends the connection; what it sent."""
    caller.socket.setblocking(False)
    block = frames * max(1, 65536 // len(frames))
    sent, received = 0, b""
    with contextlib.suppress(ConnectionError):
        while sent < most:
            readable, writable, _ = select.select((caller.socket,), (caller.socket,), (), 10)
            assert readable or writable, "the server neither reads nor ends"
            if readable:
                data = caller.socket.recv(65536)
                if not data:
                    break
                received += data
            if writable:
                sent += caller.socket.send(block[sent % len(frames) :])
    assert sent < most, "the server takes all of it"
    return received


def told_to_calm_down(received: bytes) -> bool:
    return b"\x07\x00\x00\x00\x00\x00" in received and ENHANCE_YOUR_CALM.to_bytes(4, "big") in received


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with started("hypercorn", log="info", drain=2) as front:
        yield front
    assert not [line for line in front.log.splitlines() if '"level": "info"' not in line]


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_of_control_frames_end_the_connection(front: Front, flood: str) -> None:
    with calling(front) as caller:
        caller.post(HANG[:5], end=False)
        with calling(front) as bystander:
            pour(caller, b"".join(frame.serialize() for frame in FLOODS[flood]))
            assert bystander.answer(bystander.post(ECHO)) == (200, b"1")


def test_rapid_resets_end_the_connection(front: Front) -> None:
    """CVE-2023-44487."""
    with calling(front) as caller:
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                # Without its body, so that the flow-control window of the connection is not what stops the flood.
                stream = caller.post(b"", end=False)
                caller.h2.reset_stream(stream)
                caller.flush()
        # This waits until the server has ended the connection.
        ends = [event for event in caller.events() if isinstance(event, h2.events.ConnectionTerminated)]
        assert not ends or ends[0].error_code == ENHANCE_YOUR_CALM
        with calling(front) as bystander:
            assert bystander.answer(bystander.post(ECHO)) == (200, b"1")


def test_an_endless_head_ends_the_connection(front: Front) -> None:
    """CVE-2024-27316."""
    head = HeadersFrame(1, b"")
    more = ContinuationFrame(1, b"")
    with calling(front) as caller:
        caller.socket.sendall(head.serialize())
        pour(caller, more.serialize())


def test_pings_are_answered_and_the_flood_is_named() -> None:
    with started("hypercorn", log="info") as front:
        with calling(front) as caller:
            for number in range(100):
                caller.h2.ping(number.to_bytes(8, "big"))
            caller.flush()
            seen = 0
            for event in caller.events():
                seen += isinstance(event, h2.events.PingAckReceived)
                if seen == 100:
                    break
            assert told_to_calm_down(pour(caller, PingFrame(0, b"12345678").serialize()))
        with calling(front) as caller:
            _, text = caller.answer(caller.post(b"", method="GET", path="/metrics"))
        assert b'sandboxd_callers_turned_away_total{reason="flood"} 1.0' in text
    assert front.log.count("flood") == 1


def test_an_honest_caller_may_do_much(front: Front) -> None:
    """Hundreds of requests, a window returned for each frame, and now and then one that is cancelled."""
    with calling(front) as caller:
        for number in range(150):
            assert caller.answer(caller.post(ECHO)) == (200, b"1")
            if number % 10 == 0:
                caller.h2.reset_stream(caller.post(HANG))
                caller.h2.ping(bytes(8))
                caller.flush()
        status, body = caller.answer(caller.post(BIG))
        assert (status, len(body)) == (200, MEBIBYTES_16)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/v1.0/bindings/echo"),
        ("Post", "/v1.0/bindings/echo"),
        ("CONNECT", "/v1.0/bindings/echo"),
        ("GET", "http://x/livez"),
        ("GET", "livez"),
        ("GET", "*"),
        ("GET", "/livez\xff"),
        ("GET", "/livez x"),
        ("G\xc4T", "/livez"),
    ],
)
def test_heads_that_are_refused(front: Front, method: str, path: str) -> None:
    with calling(front) as caller:
        caller.h2.config.header_encoding = None
        stream = 1
        head = [(b":method", method.encode("latin-1")), (b":path", path.encode("latin-1"))]
        caller.h2.config.validate_outbound_headers = False
        caller.h2.send_headers(stream, [*head, (b":scheme", b"http"), (b":authority", b"x")], end_stream=True)
        caller.flush()
        statuses = []
        for event in caller.events():
            if isinstance(event, h2.events.ResponseReceived):
                statuses.append(dict(event.headers)[b":status"])
            if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                break
        refused = b"404" if method.upper() == "POST" else b"400"
        assert statuses in ([refused], [])
    with socket.create_connection(("127.0.0.1", front.port), timeout=BOUND_S) as plain:
        plain.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert plain.recv(65536).startswith(b"HTTP/1.1 200 ")

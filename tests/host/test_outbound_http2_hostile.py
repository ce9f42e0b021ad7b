"""Origins that break HTTP/2: malformed heads and trailers are no responses, floods do not hold up the loop's clocks."""

import socket
import threading
import time
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest

from hostfuncs.outbound import DeadlineExceeded, ErrorCode, Outbound, OutboundLimits, Policy, Settings
from hostfuncs.outbound.httpcore_network import PIECE_BYTES
from tests.host.outbound_client import fetch, request
from tests.listeners import Listener, Seen
from tests.origins import Authority

POLICY = Policy.parse(["https://localhost:*"])
OK = (b":status", b"200")

# RFC 9113, 8.2.1 (names and values), 8.2.2 (fields of the connection), 8.3 and 8.3.2 (pseudo-header fields).
MALFORMED = {
    "cr-lf": [OK, (b"x-a", b"1\r\nset-cookie: a=b")],
    "lf": [OK, (b"x-a", b"1\n2")],
    "nul": [OK, (b"x-a", b"1\x002")],
    "cr": [OK, (b"x-a", b"1\r2")],
    "control": [OK, (b"x-a", b"1\x012")],
    "del": [OK, (b"x-a", b"1\x7f2")],
    "space-before": [OK, (b"x-a", b" 1")],
    "tab-after": [OK, (b"x-a", b"1\t")],
    "uppercase": [OK, (b"X-A", b"1")],
    "space-in-name": [OK, (b"x a", b"1")],
    "colon-in-name": [OK, (b"x:a", b"1")],
    "lf-in-name": [OK, (b"x\na", b"1")],
    "high-name": [OK, (b"x\xffa", b"1")],
    "empty-name": [OK, (b"", b"1")],
    "no-status": [(b"x-a", b"1")],
    "two-status": [OK, (b":status", b"500")],
    "late-status": [(b"x-a", b"1"), OK],
    "late-second-status": [OK, (b"x-a", b"1"), OK],
    "request-pseudo": [OK, (b":path", b"/")],
    "unknown-pseudo": [OK, (b":protocol", b"x")],
    "status-word": [(b":status", b"ok")],
    "status-short": [(b":status", b"20")],
    "status-long": [(b":status", b"2000")],
    "status-sign": [(b":status", b"+20")],
    "status-zero": [(b":status", b"000")],
    "status-empty": [(b":status", b"")],
    "connection": [OK, (b"connection", b"close")],
    "keep-alive": [OK, (b"keep-alive", b"timeout=5")],
    "transfer-encoding": [OK, (b"transfer-encoding", b"chunked")],
    "upgrade": [OK, (b"upgrade", b"websocket")],
    "proxy-connection": [OK, (b"proxy-connection", b"close")],
}
TRAILERS = {
    name: [field for field in fields if field != OK]
    for name, fields in MALFORMED.items()
    if not name.startswith("late")
} | {
    "status": [OK],
    "no-status": [(b":scheme", b"https")],
}
FLOODS = {
    "settings": b"\0\0\0\4\0\0\0\0\0",
    "ping": b"\0\0\x08\6\0\0\0\0\0" + bytes(8),
    "window": b"\0\0\4\x08\0\0\0\0\0\0\0\0\1",
}
# Frames that end the connection at once: CONTINUATION without end (RFC 9113, 6.10); a header of 3,900 bytes that is
# then named 12,000 times by its index (RFC 7541, 7.3); a frame larger than was allowed (RFC 9113, 4.2); one of a stream
# that the client never opened (5.1.1).
BREAKING = {
    "continuation": b"\0\0\1\1\0\0\0\0\1\x88" + b"\0\0\0\x09\0\0\0\0\1" * 4096,
    "index-bomb": (15907).to_bytes(3) + b"\1\5\0\0\0\1\x88\x40\1a\x7f\xbd\x1d" + b"x" * 3900 + b"\xbe" * 12000,
    "large-frame": (1 << 20).to_bytes(3) + b"\0\0\0\0\0\1" + bytes(1 << 20),
    "unknown-stream": b"\0\0\1\0\0\0\0\0\7x",
}


class Hostile(Listener):
    """Answers /head/NAME, /trailers/NAME, /flood/NAME, /break/NAME and /fine."""

    def serve(self, sock: socket.socket) -> None:
        config = h2.config.H2Configuration(
            client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=False
        )
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        sock.sendall(connection.data_to_send())
        while data := sock.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    path = {bytes(n): bytes(v) for n, v in event.headers or ()}[b":path"].decode()
                    self.seen.append(Seen("GET", path, []))
                    self._answer(sock, connection, event.stream_id, *path[1:].split("/"))
            sock.sendall(connection.data_to_send())

    def _answer(
        self, sock: socket.socket, connection: h2.connection.H2Connection, stream: int, what: str, name: str = ""
    ) -> None:
        if what == "head":
            connection.send_headers(stream, MALFORMED[name])
            connection.send_data(stream, b"body", end_stream=True)
        elif what == "trailers":
            connection.send_headers(stream, [OK])
            connection.send_data(stream, b"body")
            connection.send_headers(stream, TRAILERS[name], end_stream=True)
        elif what == "break":
            sock.sendall(connection.data_to_send() + BREAKING[name])
        elif what == "flood":
            sock.sendall(connection.data_to_send())
            threading.Thread(target=lambda: [None for _ in iter(lambda: self._drain(sock), b"")], daemon=True).start()
            while not self.closing:
                if name == "1xx":
                    for _ in range(1000):
                        connection.send_headers(stream, [(b":status", b"103")])
                    sock.sendall(connection.data_to_send())
                else:
                    sock.sendall(FLOODS[name] * 4096)
        else:
            connection.send_headers(stream, [OK])
            connection.send_data(stream, b"fine", end_stream=True)

    @staticmethod
    def _drain(sock: socket.socket) -> bytes:
        try:
            return sock.recv(65536)
        except OSError:
            return b""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def origin(authority: Authority) -> Iterator[Hostile]:
    with Hostile(authority.server_context("localhost", http2=True)) as running:
        yield running


@pytest.fixture
def outbound(authority: Authority) -> Iterator[Outbound]:
    engine = Outbound(Settings(ca_files=(str(authority.ca_file),), http2=True))
    yield engine
    engine.close()


def test_malformed_heads_are_refused(origin: Hostile, outbound: Outbound) -> None:
    for name in MALFORMED:
        got = fetch(outbound, f"https://localhost:{origin.port}/head/{name}", policy=POLICY)
        assert got.error == ErrorCode("HTTP-protocol-error"), name
    assert fetch(outbound, f"https://localhost:{origin.port}/fine", policy=POLICY).body == b"fine"


def test_malformed_trailers_never_reach_a_guest(origin: Hostile, outbound: Outbound) -> None:
    """httpcore2 passes no trailers on. h2 refuses most of these, and what it does not refuse is dropped."""
    for name in TRAILERS:
        got = fetch(outbound, f"https://localhost:{origin.port}/trailers/{name}", policy=POLICY)
        assert got.error in (None, ErrorCode("HTTP-protocol-error")), name
        assert not got.trailers
    assert fetch(outbound, f"https://localhost:{origin.port}/fine", policy=POLICY).body == b"fine"


@pytest.mark.parametrize("name", BREAKING)
def test_frames_that_may_not_be_end_the_connection(origin: Hostile, outbound: Outbound, name: str) -> None:
    got = fetch(outbound, f"https://localhost:{origin.port}/break/{name}", policy=POLICY)
    assert got.error == ErrorCode("HTTP-protocol-error")
    assert outbound.connections() == (0, 0)
    assert fetch(outbound, f"https://localhost:{origin.port}/fine", policy=POLICY).body == b"fine"


@pytest.mark.parametrize("target", ["/break/large-frame", "/break/unknown-stream", "/head/cr-lf", "/head/no-status"])
def test_a_request_that_nonsense_answers_is_not_sent_again(origin: Hostile, outbound: Outbound, target: str) -> None:
    """The connection carried one before, but the origin has not hung up."""
    assert fetch(outbound, f"https://localhost:{origin.port}/fine", policy=POLICY).body == b"fine"
    got = fetch(outbound, f"https://localhost:{origin.port}{target}", policy=POLICY)
    assert got.error == ErrorCode("HTTP-protocol-error")
    assert [seen.target for seen in origin.seen] == ["/fine", target]


@pytest.mark.parametrize("name", [*FLOODS, "1xx"])
def test_a_flood_ends_with_the_deadline(
    origin: Hostile, outbound: Outbound, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken in by pieces that are small, so that no piece keeps the loop from the clock for long."""
    taken: list[int] = []
    receive = h2.connection.H2Connection.receive_data

    def counted(self: h2.connection.H2Connection, data: bytes) -> list[h2.events.Event]:
        events = receive(self, data)
        if self.config.client_side:
            taken.append(len(data))
        return events

    monkeypatch.setattr(h2.connection.H2Connection, "receive_data", counted)
    exchanges = outbound.begin(POLICY, OutboundLimits(), time.monotonic_ns() + 2_000_000_000)
    try:
        exchange = exchanges.start(request(f"https://localhost:{origin.port}/flood/{name}"))
        with pytest.raises(DeadlineExceeded):
            exchanges.wait(exchange.done)
    finally:
        exchanges.close()
    assert max(taken) <= PIECE_BYTES
    assert outbound.connections()[0] == 0

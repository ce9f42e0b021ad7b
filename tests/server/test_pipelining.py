"""Requests that are sent without waiting for answers: what is parsed and queued of them is bounded."""

import socket

import pytest

from tests.server.callers import MIB, connect, pour, read_all, resident, statuses
from tests.server.fronts import ENGINES, started

pytestmark = pytest.mark.slow
"""Floods of requests."""

HANG = b'{"operation":"execute","metadata":{"args":"do=hang"}}'
ECHO = b'{"operation":"execute","data":1}'
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


def post(body: bytes, headers: bytes = b"") -> bytes:
    head = b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (headers, len(body)) + body


FLOODS = {
    "refused": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "probe": b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
    "scrape": b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
    "binding": post(ECHO),
    "unread body": b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx",
    "chunked": b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\n"
    b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "trailers": b"PUT /v1.0/metadata/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n",
    "offers": b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "blank lines": b"\r\n\r\n",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("before", ["", "running"])
@pytest.mark.slow
def test_what_is_queued_of_a_flood_is_bounded(engine: str, before: str) -> None:
    """Behind a request that runs, or behind answers that nobody reads. Parsed, the flood would take a hundred times its
    8 MiB; the first request of each kind takes some 20 MiB for good, whatever follows it."""
    with started(engine, token="t", timeout_ms=1500, drain=4) as front:
        with connect(front) as first:
            first.sendall(FLOODS["probe"])
            assert first.recv(65536)
        usual = resident(front)
        for name, flood in FLOODS.items():
            with connect(front) as connection:
                connection.sendall(post(HANG, b"dapr-api-token: t\r\n") if before else b"")
                pour(connection, flood, 8 * MIB, patience=0.5)
                assert resident(front) < usual + 48 * MIB, name
                with connect(front) as bystander:
                    bystander.sendall(FLOODS["probe"])
                    assert bystander.recv(65536).startswith(b"HTTP/1.1 200 "), name
    assert "Traceback" not in front.log


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_of_one_packet_are_answered_in_their_order(engine: str) -> None:
    requests = [
        post(b'{"operation":"execute","data":"first"}'),
        b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n",
        FLOODS["chunked"],
        b"\r\n" + post(b'{"operation":"execute","data":"\\r\\n\\r\\n"}'),
        FLOODS["trailers"],
        FLOODS["unread body"],
        b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ]
    stream = b"".join(requests)
    with started(engine) as front:
        for size in (len(stream), 1000, 7, 1):
            with connect(front) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for at in range(0, len(stream), size):
                    connection.sendall(stream[at : at + size])
                answer = read_all(connection)
            assert statuses(answer) == [200, 200, 500, 200, 204, 200, 404], size
    assert front.log == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_caller_who_sends_the_next_request_and_hangs_up(engine: str) -> None:
    """Whoever half-closes or goes away behind pipelined requests makes no line of the log, least of all a traceback."""
    with started(engine, log="info") as front:
        for ending in (socket.SHUT_WR, None):
            for flood in (FLOODS["binding"] * 3, FLOODS["probe"] * 3, FLOODS["scrape"] * 3, FLOODS["refused"] * 50):
                for _ in range(10):
                    with connect(front) as connection:
                        connection.sendall(flood)
                        if ending is not None:
                            connection.shutdown(ending)
                            read_all(connection)
        with connect(front) as connection:
            connection.sendall(FLOODS["probe"])
            assert connection.recv(65536)
    assert "Traceback" not in front.log
    assert '"error"' not in front.log

"""Heads that another HTTP parser might read in another way are refused, alike on both servers."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.server.callers import connect, pour, read_all, statuses
from tests.server.fronts import ENGINES, Front, started

BODY = b'{"operation":"execute","data":1}'


@pytest.fixture(scope="module", params=ENGINES)
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    with started(request.param) as front:
        yield front
    assert "Traceback" not in front.log


def answers(front: Front, request: bytes) -> list[int]:
    """The statuses of all answers, up to the server's end of the connection."""
    with connect(front) as connection:
        connection.sendall(request)
        return statuses(read_all(connection))


def post(headers: bytes, body: bytes = BODY, version: bytes = b"1.1", method: bytes = b"POST") -> bytes:
    return b"%b /v1.0/bindings/echo HTTP/%b\r\n%b\r\n%b" % (method, version, headers, body)


HOST = b"host: x\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
NEXT = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        # RFC 9112, 6.1 and 6.3
        (post(HOST + LENGTH + CHUNKED, CHUNKS), 400),
        (post(HOST + CHUNKED + LENGTH, CHUNKS), 400),
        (post(HOST + b"content-length: 0\r\n" + CHUNKED, CHUNKS), 400),
        (post(HOST + b"content-length: 5\r\nTransfer-Encoding:\tchunked\r\n", CHUNKS), 400),
        (post(HOST + LENGTH + b"content-length: 1\r\n"), 400),
        (post(HOST + b"content-length: +5\r\n"), 400),
        (post(HOST + b"content-length: 1_0\r\n"), 400),
        (post(HOST + b"content-length: -1\r\n"), 400),
        (post(CHUNKED, CHUNKS, b"1.0"), 400),
        (post(HOST + b"transfer-encoding: gzip, chunked\r\n", CHUNKS), 501),
        (post(HOST + b"transfer-encoding: xchunked\r\n", CHUNKS), (400, 501)),
        (post(HOST + b"transfer-encoding: chunked, gzip\r\n", CHUNKS), (400, 501)),
        (post(HOST + CHUNKED + CHUNKED, CHUNKS), (400, 501)),
        (post(HOST + LENGTH + LENGTH), 400),
        (post(HOST + LENGTH.replace(b"\r\n", b", 32\r\n")), 400),
        (post(HOST + b"content-length: 18446744073709551648\r\n"), 400),
        # RFC 9112, 2.2: a bare line feed, with what a proxy that takes it for a part of the value would pass on
        (post(HOST + LENGTH).replace(b"\r\n", b"\n"), 400),
        (post(HOST + b"x: a\ny: b\r\n" + LENGTH), 400),
        (post(HOST + b"x: a\n" + CHUNKED + LENGTH, CHUNKS), 400),
        (post(HOST + LENGTH).replace(b"\r\n\r\n", b"\r\n\n"), 400),
        (post(HOST + b"x: a\ry: b\r\n" + LENGTH), 400),
        # RFC 9112, 5.2: folded lines
        (post(HOST + b"x: a\r\n b\r\n" + LENGTH), 400),
        (post(HOST + b"x: a\r\n\t" + CHUNKED + LENGTH), 400),
        (post(HOST + b"content-length:\r\n 32\r\n"), 400),
        (post(HOST + b"content-length:\r\n\t32\r\n"), 400),
        # RFC 9110, 5.5
        (post(HOST + b"x: \x01\r\n" + LENGTH), 400),
        (post(HOST + b"x: \x7f\r\n" + LENGTH), 400),
        # RFC 9112, 7.1
        (post(HOST + CHUNKED, CHUNKS.replace(b"\r\n", b" \r\n", 1)), 400),
        (post(HOST + CHUNKED, CHUNKS.replace(b"\r\n", b";a\0\r\n", 1)), 400),
        (post(HOST + CHUNKED, CHUNKS.replace(b"\r\n", b";a\rb\r\n", 1)), 400),
        (post(HOST + CHUNKED, CHUNKS.replace(b"\r\n", b";a\nb\r\n", 1)), 400),
        (post(HOST + CHUNKED, b"100000000000000" + CHUNKS), 400),
        (post(HOST + CHUNKED, CHUNKS.replace(b"0\r\n\r\n", b"0\r\nx: y\n\r\n")), 400),
        # RFC 9112, 3.2
        (post(LENGTH), 400),
        (post(HOST + HOST + LENGTH), 400),
        (post(HOST + b"Host: y\r\n" + LENGTH), 400),
        (post(b"host: a b\r\n" + LENGTH), 400),
        (post(b"host: a/b\r\n" + LENGTH), 400),
        (b"GET http://x/livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.0\r\nhost: x\r\nhost: x\r\n\r\n", 400),
        # RFC 9110, 9.1
        (post(HOST + LENGTH, method=b"post"), 404),
        (post(HOST + LENGTH, method=b"Post"), 404),
        (b"get /livez HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"G:T /livez HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"get /livez HTTP/1.2\r\nhost: x\r\n\r\n", (400, 404, 505)),
        # RFC 9112, 2.3 and 3.2
        (b"GET /livez HTTP/2.0\r\nhost: x\r\n\r\n", (400, 505)),
        (b"GET /livez HTTP/0.9\r\nhost: x\r\n\r\n", (400, 505)),
        (b"GET livez HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET ftp://x/livez HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET http:///livez HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET http://u:p@x/livez HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /livez#x HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /livez\xff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    ],
)
def test_refused_once_and_closed(front: Front, request_: bytes, status: int | tuple[int, ...]) -> None:
    found = answers(front, request_ + NEXT)
    assert len(found) == 1
    assert found[0] in ((status,) if isinstance(status, int) else status)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"GET http://x/livez HTTP/1.1\r\nhost: other\r\n\r\n", 200),
        (b"GET HTTP://x:3500/livez?a HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        (b"GET https://[::1]:3500/livez HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        (b"POST http://x/v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\n" + LENGTH + b"\r\n" + BODY, 200),
        (post(b"host:\r\n" + LENGTH), 200),
        (post(b"host: [fe80::1%25eth0]:80\r\n" + LENGTH), 200),
        (post(HOST + b"Transfer-Encoding: Chunked\r\n", CHUNKS), 200),
        (post(HOST + CHUNKED, CHUNKS.replace(b"\r\n", b';a="b c"\r\n', 1)), 200),
        (post(HOST + CHUNKED, CHUNKS.replace(b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n")), 200),
        (b"\r\n" + post(HOST + LENGTH), 200),
        (post(HOST + LENGTH) + b"\r\n", 200),
        (post(HOST + LENGTH) + b"\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404),
    ],
)
def test_taken_and_kept_open(front: Front, request_: bytes, status: int) -> None:
    assert answers(front, request_ + NEXT) == [status, 200]


def test_http_1_0_is_kept_open_if_asked(front: Front) -> None:
    """Hypercorn's h11 closes after each answer to HTTP/1.0, whatever it is asked."""
    asked = post(LENGTH + b"connection: keep-alive\r\n", version=b"1.0")
    for requests, kept in ((asked + asked, True), (post(LENGTH, version=b"1.0") + asked, False)):
        with connect(front) as connection:
            connection.sendall(requests + post(LENGTH, version=b"1.0"))
            answer = read_all(connection)
        if "uvicorn" in repr(front.process.args):
            assert statuses(answer) == ([200] * 3 if kept else [200])
            assert answer.lower().count(b"connection: keep-alive\r\n") == (2 if kept else 0)
        else:
            assert statuses(answer) == [200]


@pytest.mark.parametrize("more", [b"", b"\r\n", b"xx", NEXT, b"\0" * 70000])
@pytest.mark.parametrize(
    "last",
    [
        post(HOST + LENGTH + b"connection: close\r\n"),
        post(HOST + CHUNKED + b"connection: close\r\n", CHUNKS),
        post(LENGTH, version=b"1.0"),
    ],
)
def test_what_follows_the_last_request_is_dropped(front: Front, last: bytes, more: bytes) -> None:
    """RFC 9112, 9.6: and Nagios' check_http sends an empty line behind a body."""
    for pieces in ([last + more], [last, more]):
        with connect(front) as connection:
            for piece in pieces:
                connection.sendall(piece)
            assert statuses(read_all(connection)) == [200]


def test_the_authority_of_the_target_takes_the_place_of_host(front: Front) -> None:
    """RFC 9112, 3.2.2. The guest is told of it; `tests/server/test_http_guests.py` looks there."""
    assert answers(front, b"GET http://a/livez HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n") == [200]


def test_no_interim_answer_to_http_1_0(front: Front) -> None:
    """RFC 9110, 10.1.1."""
    head = b"POST /v1.0/bindings/echo HTTP/1.0\r\nexpect: 100-continue\r\n" + LENGTH + b"\r\n"
    with connect(front) as connection:
        connection.sendall(head)
        connection.sendall(BODY)
        assert statuses(read_all(connection)) == [200]
    with connect(front) as connection:
        connection.sendall(head.replace(b"1.0\r\n", b"1.1\r\nhost: x\r\n"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(BODY)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_change_nothing(front: Front, size: int) -> None:
    request = post(HOST + b"x: a b\r\n" + CHUNKED, CHUNKS) + NEXT
    with connect(front) as connection:
        for at in range(0, len(request), size):
            connection.sendall(request[at : at + size])
        assert statuses(read_all(connection)) == [200, 200]
    for bad in (b"x: a\n", b"x: a\r\n b\r\n"):
        request = post(HOST + bad + LENGTH)
        with connect(front) as connection:
            with contextlib.suppress(ConnectionError):  # it is refused before all of it is sent
                for at in range(0, len(request), size):
                    connection.sendall(request[at : at + size])
            assert statuses(read_all(connection)) == [400]


def test_a_trailer_is_no_header(front: Front) -> None:
    """RFC 9110, 6.5.1. An idle guest's trace would otherwise be whatever a trailer says."""
    request = post(HOST + CHUNKED, b"%x\r\n%b\r\n0\r\nbaggage: ==malformed==\r\n\r\n" % (len(BODY), BODY))
    assert answers(front, request + NEXT) == [200, 200]


def test_an_offer_of_websocket_is_not_taken_up(front: Front) -> None:
    offer = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: x\r\n"
    assert answers(front, b"GET /livez HTTP/1.1\r\nhost: x\r\n" + offer + b"\r\n" + NEXT) == [200, 200]


@pytest.mark.parametrize(
    "offer",
    [
        b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
        b"connection: upgrade\r\nupgrade: h2c\r\n",
        b"connection: upgrade, http2-settings\r\nupgrade: H2C\r\nhttp2-settings: !\r\n",
        b"upgrade: h2c, websocket\r\n",
    ],
)
def test_an_offer_of_h2c_is_not_taken_up(front: Front, offer: bytes) -> None:
    """A proxy that passes the offer on would see nothing of what follows, and check none of it."""
    assert answers(front, b"GET /livez HTTP/1.1\r\nhost: x\r\n" + offer + b"\r\n" + NEXT) == [200, 200]


EARLY = {
    "baggage": b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\nbaggage: a=%zz\r\n",
    "path": b"POST /nothing HTTP/1.1\r\nhost: x\r\n",
    "method": b"DELETE /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\n",
    "raw": b"POST /v1.0/bindings/none/raw HTTP/1.1\r\nhost: x\r\n",
}


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("kind", EARLY)
def test_an_answer_before_the_body_does_not_end_the_connection(front: Front, kind: str, framing: bytes) -> None:
    """RFC 9112, 9.3: without `connection: close` the caller may send its body, and then the next request."""
    with connect(front) as connection:
        connection.sendall(EARLY[kind] + framing + b"\r\n")
        answer = connection.recv(65536)
        assert 400 <= statuses(answer)[0] < 500
        assert b"connection: close" not in answer.lower()
        body = BODY if framing == LENGTH else CHUNKS
        connection.sendall(body[:9])
        connection.sendall(body[9:] + NEXT)
        assert statuses(read_all(connection))[-1:] == [200]


@pytest.mark.parametrize("expects", [b"", b"expect: 100-continue\r\n"])
def test_a_long_body_that_nobody_reads_is_not_waited_for(expects: bytes) -> None:
    with started("hypercorn") as front, connect(front) as connection:
        connection.sendall(EARLY["path"] + expects + b"content-length: 10000000\r\n\r\n")
        answer = b""
        while 404 not in statuses(answer):
            part = connection.recv(65536)
            assert part, answer
            answer += part
        pour(connection, bytes(65536), 10_000_000)
        assert b"HTTP/1.1 2" not in read_all(connection)
    assert front.log == ""


def test_a_bad_request_behind_another_does_not_take_its_answer(front: Front) -> None:
    assert answers(front, post(HOST + LENGTH) + b"NONSENSE\r\n\r\n" + NEXT) in ([200], [200, 400])


def test_refusals_are_counted_and_summed_up_in_the_log() -> None:
    with started("uvicorn", log="info", max_header=8192) as front:
        for _ in range(20):
            assert answers(front, b"NONSENSE\r\n\r\n") == [400]
        assert answers(front, b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000) in ([431], [])
        with connect(front) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = read_all(connection)
        assert b'sandboxd_callers_turned_away_total{reason="malformed"} 20.0' in text
        assert b'sandboxd_callers_turned_away_total{reason="head_size"} 1.0' in text
    lines = [json.loads(line) for line in front.log.splitlines() if "turned away" in line]
    assert sum(line["count"] for line in lines) == 21
    assert len(lines) < 20

"""Callers who do not send what they announce, who do not read what they asked for, and who are too many."""

import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.certificates import Authority
from tests.server.callers import MIB, connect, most_resident, read_all, resident, statuses
from tests.server.fronts import ENGINES, Front, started
from tests.server.test_http2_callers import calling
from tests.waiting import BOUND_S, until

pytestmark = pytest.mark.slow
"""Most tests start a server of their own."""

BIG = b'{"operation":"execute","metadata":{"args":"do=big"}}'
HANG = b'{"operation":"execute","metadata":{"args":"do=hang"}}'


def post(body: bytes, length: int | None = None, headers: bytes = b"", path: bytes = b"/v1.0/bindings/echo") -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n"
    return head % (path, headers, len(body) if length is None else length) + body


def turned_away(front: Front, reason: str) -> float:
    with connect(front) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = read_all(connection).decode()
    for line in text.splitlines():
        if line.startswith(f'sandboxd_callers_turned_away_total{{reason="{reason}"}}'):
            return float(line.split()[1])
    return 0.0


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


HELD_BACK = {
    "nothing": post(b"", 10),
    "some": post(b'{"oper', 4000),
    "chunked": b"POST /v1.0/bindings/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
    "another name": post(b"", 10, path=b"/v1.0/bindings/none"),
    "attribute": b"PUT /v1.0/metadata/x HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc",
}


def test_bodies_that_never_come(engine: str) -> None:
    with started(engine, body_timeout=0.5) as front:
        with contextlib.ExitStack() as stack:
            waiting = {name: stack.enter_context(connect(front)) for name in HELD_BACK}
            for name, connection in waiting.items():
                connection.sendall(HELD_BACK[name])
            for name, connection in waiting.items():
                assert statuses(read_all(connection)) == [408], name
        assert turned_away(front, "body_timeout") == len(HELD_BACK)
    assert front.log == ""


def test_bodies_that_come_too_slowly(engine: str) -> None:
    """Each pause is shorter than what is allowed, all of it is not."""
    with started(engine, body_timeout=0.6, min_rate=1000) as front, connect(front) as connection:
        connection.sendall(post(b"", 4000))
        connection.settimeout(0.1)
        answer = b""
        for _ in range(200):
            with contextlib.suppress(TimeoutError, ConnectionError):
                connection.sendall(b"x")
                answer = connection.recv(65536)
                break
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_body_at_the_least_pace_is_taken(engine: str) -> None:
    body = b'{"operation":"execute","data":"%b"}' % (b"x" * 3000)
    with started(engine, body_timeout=3, min_rate=100) as front, connect(front) as connection:
        connection.sendall(post(b"", len(body)))
        for at in range(0, len(body), 500):
            time.sleep(0.5)  # what is tested is that pauses are allowed
            connection.sendall(body[at : at + 500])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_the_timeout_of_a_binding_holds_from_its_first_byte(engine: str) -> None:
    with started(engine, timeout_ms=500, body_timeout=60, log="info") as front:
        with connect(front) as connection:
            connection.sendall(post(b'{"', 10))
            answer = read_all(connection)
        assert statuses(answer) == [408]
        assert b"did not come within" in answer
        assert turned_away(front, "body_timeout") == 0
    assert any(json.loads(line).get("outcome") == "deadline_exceeded" for line in front.log.splitlines())


def test_bodies_that_nobody_reads_end_the_connection(engine: str) -> None:
    with started(engine, body_timeout=0.5) as front, connect(front) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        assert statuses(read_all(connection)) == [200]


def test_late_bodies_over_http2() -> None:
    with started("hypercorn", body_timeout=0.5) as front, calling(front) as caller:
        late = caller.post(b'{"', end=False)
        assert caller.answer(late)[0] == 408
        unread = caller.post(b"x", method="GET", path="/livez", end=False)
        assert caller.answer(unread) == (200, b"ok")
        until(lambda: turned_away(front, "body_timeout") == 3, "the streams that linger are reset")
        assert caller.answer(caller.post(b"", method="GET", path="/livez")) == (200, b"ok")


def reading_slowly(front: Front, count: int) -> Iterator[socket.socket]:
    for _ in range(count):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.settimeout(BOUND_S)
        connection.connect(("127.0.0.1", front.port))
        connection.sendall(post(BIG))
        yield connection


def test_responses_that_nobody_reads_are_cut_off(engine: str) -> None:
    with started(engine, send_timeout=5, drain=300) as front:
        before = resident(front)
        callers = list(reading_slowly(front, 8))
        until(lambda: most_resident(front) > before + 64 * MIB, "the responses have been there")
        until(lambda: turned_away(front, "send_timeout") == 8, "all of them are cut off")
        until(lambda: resident(front) < before + 48 * MIB, "what nobody reads is given up")
        for caller in callers:
            assert 0 < len(read_all(caller)) < 16 * MIB
            caller.close()
        assert front.end() == 0  # long before its drain is over
    assert front.log == ""


def test_responses_that_are_read_too_slowly_are_cut_off(engine: str) -> None:
    with started(engine, send_timeout=1, min_rate=4 * MIB) as front:
        (caller,) = reading_slowly(front, 1)
        with caller, contextlib.suppress(ConnectionError):
            taken = 0
            while part := caller.recv(10_000):
                taken += len(part)
                time.sleep(0.01)  # a slow reader, who reads on
            assert taken < 16 * MIB
        assert turned_away(front, "send_timeout") == 1


def test_a_response_at_a_fair_pace_is_whole(engine: str) -> None:
    with started(engine, send_timeout=10) as front:
        (caller,) = reading_slowly(front, 1)
        with caller:
            taken = 0
            while taken < 16 * MIB:
                part = caller.recv(65536)
                assert part
                taken += len(part)


def test_what_is_held_in_all_is_bounded(engine: str) -> None:
    with started(engine, send_timeout=60, max_unread=64 * MIB) as front:
        before = resident(front)
        callers = list(reading_slowly(front, 40))
        # 64 MiB hold 4 responses, and the kernel's buffers a few MiB of each.
        until(lambda: turned_away(front, "unread") >= 30, "those who read least are cut off")
        # The allocator keeps some of it. All 40 would be 640 MiB.
        until(lambda: resident(front) < before + 320 * MIB, "their memory is given back")
        with connect(front) as honest:
            honest.sendall(post(b'{"operation":"execute","data":1}'))
            assert honest.recv(65536).startswith(b"HTTP/1.1 200 ")
        for caller in callers:
            caller.close()
        until(lambda: resident(front) < before + 96 * MIB, "all memory is given back")
    assert '"error"' not in front.log


def test_one_connection_with_many_streams_holds_no_more_than_its_bound() -> None:
    """100 responses of 16 MiB, all made at once, of which nothing is read: as many streams as a connection may have."""
    with started("hypercorn", send_timeout=60) as front:
        with calling(front) as caller:
            for _ in range(100):
                caller.post(BIG)
            caller.flush()
            until(lambda: turned_away(front, "unread") >= 1, "it is cut off")
        assert most_resident(front) < 400 * MIB
    assert '"error"' not in front.log


def test_streams_that_nobody_reads_are_cut_off() -> None:
    with started("hypercorn", send_timeout=1, drain=300) as front:
        before = resident(front)
        with calling(front) as caller:
            for _ in range(8):
                caller.post(BIG)
            until(lambda: turned_away(front, "send_timeout") == 1, "the connection is cut off")
            until(lambda: resident(front) < before + 48 * MIB, "its memory is given back")
        assert front.end() == 0  # long before its drain is over


def lives(connection: socket.socket) -> bool:
    """Return whether the server answers on this connection."""
    connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = b""
    while not answer.endswith(b"ok"):
        part = connection.recv(65536)
        if not part:
            return False
        answer += part
    return True


def probe(front: Front, path: bytes = b"/livez") -> int:
    with connect(front) as connection:
        connection.sendall(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path)
        answer = connection.recv(65536)
    return int(answer.split()[1])


def test_the_longest_idle_connection_makes_room(engine: str) -> None:
    with started(engine, max_connections=8, header_timeout=60) as front, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(front)) for _ in range(8)]
        for connection in idle:
            assert lives(connection)
        idle.append(idle.pop(0))
        assert lives(idle[-1])
        more = stack.enter_context(connect(front))
        more.sendall(post(b'{"operation":"execute","data":1}'))
        assert more.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert read_all(idle[0]) == b""  # closed
        assert lives(idle[-1])
        assert turned_away(front, "connections") >= 1


def test_a_full_server_answers_probes_and_scrapes(engine: str) -> None:
    with started(engine, max_connections=8, timeout_ms=600_000) as front, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(front)).sendall(post(HANG))
        until(lambda: turned_away(front, "x") == 0 and probe(front, b"/v1.0/bindings/echo") == 503, "it is full")
        for path in (b"/livez", b"/readyz", b"/metrics"):
            assert probe(front, path) == 200
        assert probe(front, b"/v1.0/healthz") == 204
        assert probe(front, b"/v1.0/metadata") == 503
        waiting = [stack.enter_context(connect(front)) for _ in range(40)]  # more than the reserve
        assert len(waiting) == 40
        assert probe(front) == 200
        assert turned_away(front, "connections") > 0
    assert '"error"' not in front.log


def test_one_peer_does_not_take_all_connections(engine: str) -> None:
    options = {"max_connections": 100, "max_per_peer": 4, "timeout_ms": 600_000}
    with started(engine, **options) as front, contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connect(front)).sendall(post(HANG))
        until(lambda: probe(front, b"/v1.0/metadata") == 503, "this peer has what it may")
        other = stack.enter_context(socket.socket())
        other.bind(("127.0.0.2", 0))
        other.settimeout(BOUND_S)
        other.connect(("127.0.0.1", front.port))
        other.sendall(b"GET /v1.0/metadata HTTP/1.1\r\nhost: x\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_handshakes_that_never_end_count_as_connections(tmp_path: Path) -> None:
    """TLS is Hypercorn's alone."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    options = {"max_connections": 8, "header_timeout": 60, "cert": certificate, "key": key}
    context = ssl.create_default_context(cafile=authority.ca_file)
    with started("hypercorn", **options) as front, contextlib.ExitStack() as stack:
        before = len(os.listdir(f"/proc/{front.process.pid}/fd"))
        silent = [stack.enter_context(connect(front)) for _ in range(100)]
        silent[50].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        url = f"https://localhost:{front.port}"
        with httpx.Client(base_url=url, verify=context, timeout=BOUND_S) as client:
            answer = client.post("/v1.0/bindings/echo", json={"operation": "execute", "data": "x"})
            text = client.get("/metrics").text
            # The limit and the reserve for probes, not one for each that waits.
            assert len(os.listdir(f"/proc/{front.process.pid}/fd")) <= before + 8 + 16 + 2
        assert (answer.status_code, answer.content) == (200, b'"x"')
        assert float(text.split('turned_away_total{reason="connections"} ')[1].split()[0]) > 50
        assert read_all(silent[0]) == b""  # closed
    assert front.log == ""


def test_what_is_no_tls_is_hung_up_on(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    with started("hypercorn", cert=certificate, key=key) as front:
        for said in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x00" * 64, b"\x16\x03\x01\xff\xff" + b"x" * 70_000):
            with connect(front) as connection, contextlib.suppress(ConnectionError):
                connection.sendall(said)
                assert b"HTTP" not in read_all(connection)
    assert front.log == ""


def test_callers_who_do_not_read_make_no_error_at_the_end(engine: str) -> None:
    """uvicorn would wait for them for the whole drain, and log `Cancel 0 running task(s)` as an error."""
    with started(engine, drain=2.5, send_timeout=60) as front:
        callers = list(reading_slowly(front, 2))
        for caller in callers:
            assert caller.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert front.end() == 0
        for caller in callers:
            caller.close()
    assert "Cancel" not in front.log
    assert '"error"' not in front.log

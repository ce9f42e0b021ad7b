"""The outbound client against real origins: what guests can do with HTTP/1.1."""

import time
from collections.abc import Iterator

import pytest

from hostfuncs.outbound import ErrorCode, Options, Outbound, OutboundError, OutboundLimits, Policy, Settings
from tests.host.outbound_client import LOOPBACK, fetch, invocation, read_all, request
from tests.host.outbound_through import Through
from tests.origins import Origin, pattern


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture(params=[Outbound, Through])
def outbound(request: pytest.FixtureRequest) -> Iterator[Outbound]:
    engine: Outbound = request.param()
    yield engine
    engine.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_methods_are_echoed(origin: Origin, outbound: Outbound, method: str) -> None:
    got = fetch(outbound, origin.url("/echo?a=b&c=%20"), method, content=b"data" if method != "GET" else None)
    assert got.status == 200
    assert got.get("x-method") == [method.encode()]
    assert got.get("x-target") == [b"/echo?a=b&c=%20"]
    assert got.body == (b"" if method == "GET" else b"data")
    assert [(record.rule, record.outcome, record.denied) for record in got.usage] == [("*://127.0.0.1:*", "ok", "")]


def test_head_has_no_body(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/head-only"), "HEAD")
    assert (got.status, got.body, got.get("content-length")) == (200, b"", [b"7"])


@pytest.mark.parametrize("status", [204, 301, 304, 404, 500, 599])
def test_statuses_are_the_guests_business(origin: Origin, outbound: Outbound, status: int) -> None:
    assert fetch(outbound, origin.url(f"/status/{status}")).status == status


def test_only_the_guests_headers_and_host_are_sent(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/headers"), headers=[(b"X-One", b"1"), (b"x-two", b"2"), (b"X-One", b"3")])
    assert got.body.splitlines() == [b"Host: " + origin.authority.encode(), b"X-One: 1", b"x-two: 2", b"X-One: 3"]


def test_repeated_headers_arrive_in_order(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/repeated"))
    assert got.get("set-cookie") == [b"a=1", b"b=2"]
    assert got.get("x-twice") == [b"one", b"two"]


@pytest.mark.parametrize("path", ["/bytes/1048576", "/chunked/1048576"])
@pytest.mark.parametrize("piece", [65536, 1000])
def test_a_mebibyte_arrives(origin: Origin, outbound: Outbound, path: str, piece: int) -> None:
    assert fetch(outbound, origin.url(path), piece=piece).body == pattern(1 << 20)


@pytest.mark.parametrize("announced", [True, False])
def test_a_mebibyte_leaves_and_comes_back(origin: Origin, outbound: Outbound, announced: bool) -> None:
    content = pattern(1 << 20)
    headers = [(b"content-length", b"%d" % len(content))] if announced else []
    got = fetch(outbound, origin.url("/echo"), "POST", headers=headers, content=content)
    assert got.body == content
    assert origin.seen[-1].get("transfer-encoding") == (None if announced else "chunked")


def test_a_body_that_is_complete_is_sent_with_its_length(origin: Origin, outbound: Outbound) -> None:
    with invocation(outbound) as exchanges:
        body = exchanges.request_body()
        body.write(b"all ")
        body.write(b"of it")
        body.finish()
        exchange = exchanges.start(request(origin.url("/echo"), "POST"), body=body)
        assert read_all(exchanges, exchange) == b"all of it"
    assert origin.seen[-1].get("content-length") == "9"
    assert origin.seen[-1].get("transfer-encoding") is None


def test_no_content_is_said_where_servers_expect_some(origin: Origin, outbound: Outbound) -> None:
    fetch(outbound, origin.url("/echo"), "POST")
    assert origin.seen[-1].get("content-length") == "0"
    fetch(outbound, origin.url("/echo"), "GET")
    assert origin.seen[-1].get("content-length") is None


def test_trailers_both_ways(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/trailers"))
    assert (got.body, got.trailers) == (b"body", ((b"x-checksum", b"abc"), (b"x-more", b"def")))
    fetch(outbound, origin.url("/echo"), "POST", content=b"x" * 10, trailers=[(b"x-sum", b"10")])
    assert origin.seen[-1].trailers == [(b"x-sum", b"10")]


def test_response_streams_while_the_request_is_still_written(origin: Origin, outbound: Outbound) -> None:
    with invocation(outbound) as exchanges:
        body = exchanges.request_body()
        exchange = exchanges.start(request(origin.url("/duplex"), "POST"), body=body)
        for at in range(5):
            body.write(b"part %d" % at)
            exchanges.wait(exchange.body.ready)
            assert exchange.body.read(100) == b"part %d" % at
        body.finish()
        assert read_all(exchanges, exchange) == b""
    assert outbound.connections() == (0, 1)


def test_the_body_waits_for_100_continue(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/continue"), "POST", headers=[(b"expect", b"100-continue")], content=b"asked for")
    assert (got.status, got.body) == (200, b"asked for")


def test_a_refused_expectation_does_not_send_the_body(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/reject"), "POST", headers=[(b"expect", b"100-continue")], content=b"unwanted")
    assert (got.status, got.body) == (413, b"too large")
    assert outbound.connections() == (0, 0)


def test_an_early_answer_to_a_large_body_is_delivered(origin: Origin, outbound: Outbound) -> None:
    with invocation(outbound) as exchanges:
        body = exchanges.request_body()
        exchange = exchanges.start(request(origin.url("/reject"), "POST"), body=body)
        body.write(b"x" * body.permit())
        exchanges.wait(exchange.done)
        assert exchange.result().status == 413
        assert read_all(exchanges, exchange) == b"too large"
        # Nobody reads the rest any more, and the guest is told.
        assert body.closed
        with pytest.raises(OutboundError, match="connection-terminated"):
            body.write(b"more")


def test_many_requests_are_in_flight_at_once(origin: Origin, outbound: Outbound) -> None:
    """All eight reach the origin before it answers any: it holds them until told."""
    with Origin() as held, invocation(outbound) as exchanges:
        exchange_list = [exchanges.start(request(held.url("/hold"))) for _ in range(8)]
        exchanges.wait(lambda: len(held.seen) == 8, time.monotonic_ns() + 10_000_000)
        while len(held.seen) < 8:
            exchanges.wait(lambda: False, time.monotonic_ns() + 1_000_000)
        assert not any(exchange.done() for exchange in exchange_list)
        held.release()
        exchanges.wait(lambda: all(exchange.body.complete() for exchange in exchange_list))
        assert [exchange.body.read(100) for exchange in exchange_list] == [b"held"] * 8
        assert held.connections == 8


def test_concurrency_is_capped_and_the_rest_wait(outbound: Outbound) -> None:
    with Origin() as held, invocation(outbound, limits=OutboundLimits(concurrency=2)) as exchanges:
        exchange_list = [exchanges.start(request(held.url("/hold"))) for _ in range(5)]
        while len(held.seen) < 2:
            exchanges.wait(lambda: False, time.monotonic_ns() + 1_000_000)
        for _ in range(20):
            exchanges.turn()
        assert len(held.seen) == 2
        held.release()
        exchanges.wait(lambda: all(exchange.body.complete() for exchange in exchange_list))
        assert held.connections == 2


def test_connections_are_capped(origin: Origin) -> None:
    engine = Outbound(Settings(connections=3))
    with Origin() as held, invocation(engine) as exchanges:
        exchange_list = [exchanges.start(request(held.url("/hold"))) for _ in range(6)]
        while held.connections < 3:
            exchanges.wait(lambda: False, time.monotonic_ns() + 1_000_000)
        held.release()
        exchanges.wait(lambda: all(exchange.body.complete() for exchange in exchange_list))
        assert held.connections == 3
    engine.close()


def test_a_slow_reader_holds_the_origin_back(origin: Origin, outbound: Outbound) -> None:
    limits = OutboundLimits(buffer_bytes=64 * 1024)
    with invocation(outbound, limits=limits) as exchanges:
        exchange = exchanges.start(request(origin.url("/endless")))
        exchanges.wait(exchange.body.ready)
        for _ in range(200):
            exchanges.turn()
        # One piece beyond the mark at most; the rest waits in the stream, the kernel and the origin.
        assert exchange.body.received <= 2 * limits.buffer_bytes
        before = exchange.body.received
        for _ in range(10):
            exchanges.wait(exchange.body.ready)
            exchange.body.read(32 * 1024)
        exchanges.turn()
        assert exchange.body.received > before


def test_a_slow_origin_holds_the_writer_back(outbound: Outbound) -> None:
    limits = OutboundLimits(buffer_bytes=64 * 1024)
    with Origin() as held, invocation(outbound, limits=limits) as exchanges:
        body = exchanges.request_body()
        exchanges.start(request(held.url("/reject"), "POST"), body=body)
        written = 0
        idle = 0
        while idle < 50 and not body.closed:
            room = body.permit()
            if room:
                body.write(b"x" * room)
                written += room
                idle = 0
            else:
                idle += 1
            exchanges.turn()
        assert written < 16 << 20


def test_waiting_for_one_of_many_and_for_a_moment(outbound: Outbound) -> None:
    with Origin() as held, invocation(outbound) as exchanges:
        slow = exchanges.start(request(held.url("/hold")))
        fast = exchanges.start(request(held.url("/echo")))
        assert exchanges.wait(lambda: slow.done() or fast.done())
        assert (slow.done(), fast.done()) == (False, True)
        assert exchanges.wait(slow.done, time.monotonic_ns() + 5_000_000) is False


def test_a_request_moves_when_it_is_only_asked_about(origin: Origin, outbound: Outbound) -> None:
    """A guest that polls without ever blocking gets its answer too."""
    with invocation(outbound) as exchanges:
        exchange = exchanges.start(request(origin.url("/echo")))
        until = time.monotonic() + 60
        while not exchange.body.complete():
            assert time.monotonic() < until
            exchanges.turn()
        assert exchange.result().status == 200


REFUSED = [
    ({"scheme": "ftp"}, ErrorCode("HTTP-protocol-error"), "scheme"),
    ({"scheme": "WS"}, ErrorCode("HTTP-protocol-error"), "scheme"),
    ({"method": "bad\nmethod"}, ErrorCode("HTTP-request-method-invalid"), ""),
    ({"method": ""}, ErrorCode("HTTP-request-method-invalid"), ""),
    ({"method": "CONNECT"}, ErrorCode("HTTP-request-denied"), "method"),
    ({"method": "Connect"}, ErrorCode("HTTP-request-denied"), "method"),
    ({"authority": ""}, ErrorCode("HTTP-request-URI-invalid"), "host"),
    ({"authority": "localhost:99999"}, ErrorCode("HTTP-request-URI-invalid"), "host"),
    ({"authority": "user@localhost"}, ErrorCode("HTTP-request-URI-invalid"), "host"),
    ({"authority": "other.test"}, ErrorCode("HTTP-request-denied"), "host"),
    ({"path_with_query": "relative"}, ErrorCode("HTTP-request-URI-invalid"), ""),
    ({"path_with_query": "/a b"}, ErrorCode("HTTP-request-URI-invalid"), ""),
    ({"path_with_query": "/a\r\nX: y"}, ErrorCode("HTTP-request-URI-invalid"), ""),
    ({"path_with_query": "/a#b"}, ErrorCode("HTTP-request-URI-invalid"), ""),
    ({"path_with_query": "/" + "a" * 20_000}, ErrorCode("HTTP-request-URI-too-long"), "limit"),
    ({"headers": ((b"connection", b"close"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"Host", b"other.test"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"Transfer-Encoding", b"chunked"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"upgrade", b"h2c"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"x", b"a\r\nb: c"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"x", b"a\x00b"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"x y", b"z"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"", b"z"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"te", b"gzip"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"content-length", b"-1"),)}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"content-length", b"1"), (b"content-length", b"2"))}, ErrorCode("HTTP-protocol-error"), ""),
    ({"headers": ((b"content-length", b"5"),)}, ErrorCode("HTTP-request-body-size", 0), ""),
    ({"headers": ((b"x", b"y"),) * 129}, ErrorCode("HTTP-request-header-section-size", 129 * 6), "limit"),
]


@pytest.mark.parametrize(("changed", "code", "denied"), REFUSED, ids=[str(case[0])[:40] for case in REFUSED])
def test_refused_before_anything_is_sent(
    origin: Origin, outbound: Outbound, changed: dict[str, object], code: ErrorCode, denied: str
) -> None:
    before = len(origin.seen)
    plain = request(origin.url("/echo"))
    fields = {name: getattr(plain, name) for name in ("method", "scheme", "authority", "path_with_query", "headers")}
    exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20_000_000_000)
    with pytest.raises(OutboundError) as caught:
        exchanges.start(type(plain)(**(fields | changed)))
    assert caught.value.code == code
    assert [(record.outcome, record.denied) for record in exchanges.close()] == [(code.name, denied)]
    assert len(origin.seen) == before


def test_requests_of_an_invocation_are_counted(origin: Origin, outbound: Outbound) -> None:
    exchanges = outbound.begin(LOOPBACK, OutboundLimits(requests=2), time.monotonic_ns() + 20_000_000_000)
    for _ in range(2):
        read_all(exchanges, exchanges.start(request(origin.url("/echo"))))
    with pytest.raises(OutboundError, match="HTTP-request-denied"):
        exchanges.start(request(origin.url("/echo")))
    assert [record.denied for record in exchanges.close()] == ["", "", "limit"]


def test_refusals_do_not_fill_the_memory(outbound: Outbound) -> None:
    exchanges = outbound.begin(Policy.parse([]), OutboundLimits(requests=10), time.monotonic_ns() + 20_000_000_000)
    for _ in range(1000):
        with pytest.raises(OutboundError, match="HTTP-request-denied"):
            exchanges.start(request("http://example.com/"))
    assert len(exchanges.close()) < 100


@pytest.mark.parametrize(
    ("announced", "content", "code"),
    [
        (10, b"short", ErrorCode("HTTP-request-body-size", 5)),
        (3, b"too long", ErrorCode("HTTP-request-body-size", 8)),
    ],
)
def test_content_length_has_to_be_kept(
    origin: Origin, outbound: Outbound, announced: int, content: bytes, code: ErrorCode
) -> None:
    with invocation(outbound) as exchanges:
        body = exchanges.request_body(announced)
        headers = [(b"content-length", b"%d" % announced)]
        exchange = exchanges.start(request(origin.url("/echo"), "POST", headers), body=body)
        if len(content) > announced:
            with pytest.raises(OutboundError) as caught:
                body.write(content)
        else:
            body.write(content)
            with pytest.raises(OutboundError) as caught:
                body.finish()
        assert caught.value.code == code
        # The request fails with it too.
        exchanges.wait(exchange.done)
        with pytest.raises(OutboundError) as caught:
            exchange.result()
        assert caught.value.code == code


def test_a_dropped_body_fails_the_request(origin: Origin, outbound: Outbound) -> None:
    with invocation(outbound) as exchanges:
        body = exchanges.request_body()
        exchange = exchanges.start(request(origin.url("/echo"), "POST"), body=body)
        body.write(b"some")
        body.abort()
        exchanges.wait(exchange.done)
        with pytest.raises(OutboundError, match="HTTP-protocol-error"):
            exchange.result()


def test_bodies_are_capped_both_ways(origin: Origin, outbound: Outbound) -> None:
    limits = OutboundLimits(body_bytes=1000)
    assert fetch(outbound, origin.url("/bytes/1000"), limits=limits).body == pattern(1000)
    assert fetch(outbound, origin.url("/bytes/1001"), limits=limits).error == ErrorCode("HTTP-response-body-size", 1001)
    assert fetch(outbound, origin.url("/echo"), "POST", content=b"x" * 1000, limits=limits).status == 200
    got = fetch(outbound, origin.url("/echo"), "POST", content=b"x" * 1001, limits=limits)
    assert got.error is not None
    assert got.error.name == "HTTP-request-body-size"


def test_the_endless_body_ends_at_the_limit(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/endless"), limits=OutboundLimits(body_bytes=100_000))
    assert got.error is not None
    assert got.error.name == "HTTP-response-body-size"


def test_options_longer_than_the_servers_are_cut(origin: Origin) -> None:
    engine = Outbound(Settings(first_byte_timeout_ms=30))
    got = fetch(engine, origin.url("/slow-head"), options=Options(first_byte_timeout_ns=3_600_000_000_000))
    assert got.error == ErrorCode("connection-read-timeout")
    engine.close()

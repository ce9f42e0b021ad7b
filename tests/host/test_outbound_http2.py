"""HTTP/2: streams on one connection, and bodies both ways. What httpcore2 cannot do is in docs/outbound.md."""

import random
import time
from collections.abc import Iterator

import pytest

from hostfuncs.account import Account
from hostfuncs.ending import HostMemoryExceeded
from hostfuncs.outbound import ErrorCode, Outbound, OutboundLimits, Policy, Settings
from tests.host.outbound_client import fetch, invocation, read_all, request
from tests.host.test_outbound_proxy import Tunnel
from tests.origins import Authority, Http2Origin, pattern

POLICY = Policy.parse(["https://localhost:*"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def origin(authority: Authority) -> Iterator[Http2Origin]:
    with Http2Origin(authority.server_context("localhost", http2=True)) as running:
        yield running


@pytest.fixture
def outbound(authority: Authority) -> Iterator[Outbound]:
    engine = Outbound(Settings(ca_files=(str(authority.ca_file),), http2=True))
    yield engine
    engine.close()


def url(origin: Http2Origin, path: str) -> str:
    return f"https://localhost:{origin.port}{path}"


def test_methods_headers_and_reuse(origin: Http2Origin, outbound: Outbound) -> None:
    for method in ("GET", "POST", "PUT"):
        content = None if method == "GET" else b"data"
        got = fetch(outbound, url(origin, "/echo"), method, headers=[(b"X-A", b"1")], content=content, policy=POLICY)
        assert (got.status, got.body, got.get("x-method")) == (200, content or b"", [method.encode()])
        assert origin.seen[-1].get("x-a") == "1"
        assert origin.seen[-1].get("host") == f"localhost:{origin.port}"
    assert origin.connections == 1


def test_a_mebibyte_both_ways(origin: Http2Origin, outbound: Outbound) -> None:
    assert fetch(outbound, url(origin, "/bytes/1048576"), policy=POLICY).body == pattern(1 << 20)
    assert fetch(outbound, url(origin, "/echo"), "POST", content=pattern(1 << 20), policy=POLICY).body == pattern(
        1 << 20
    )


def test_trailers_are_left_out(origin: Http2Origin, outbound: Outbound) -> None:
    """Neither direction has them, and neither fails for it: a fault of httpcore2's that docs/outbound.md names."""
    got = fetch(outbound, url(origin, "/trailers"), policy=POLICY)
    assert (got.body, got.trailers, got.error) == (b"body", (), None)
    got = fetch(outbound, url(origin, "/echo"), "POST", content=b"x", trailers=[(b"X-Sum", b"1")], policy=POLICY)
    assert (got.body, origin.seen[-1].trailers) == (b"x", [])


def test_many_streams_share_a_connection(origin: Http2Origin, outbound: Outbound) -> None:
    with invocation(outbound, POLICY) as exchanges:
        started = [exchanges.start(request(url(origin, f"/bytes/{1000 * n}"))) for n in range(1, 17)]
        assert [read_all(exchanges, exchange) for exchange in started] == [pattern(1000 * n) for n in range(1, 17)]
    assert origin.connections == 1


def test_a_reset_stream_breaks_one_response_only(origin: Http2Origin, outbound: Outbound) -> None:
    got = fetch(outbound, url(origin, "/reset"), policy=POLICY)
    assert got.error == ErrorCode("HTTP-response-incomplete")
    assert fetch(outbound, url(origin, "/echo"), policy=POLICY).status == 200
    assert origin.connections == 1


def test_a_connection_that_went_away_is_replaced(origin: Http2Origin, outbound: Outbound) -> None:
    assert fetch(outbound, url(origin, "/echo"), policy=POLICY).status == 200
    origin.drop_connections()
    assert fetch(outbound, url(origin, "/echo"), policy=POLICY).status == 200
    assert fetch(outbound, url(origin, "/echo"), "POST", content=b"x", policy=POLICY).status == 200


def test_a_dropped_response_leaves_no_stream_behind(origin: Http2Origin, outbound: Outbound) -> None:
    """httpcore2 does not reset the stream, so the connection is used for nothing else."""
    with invocation(outbound, POLICY, OutboundLimits(buffer_bytes=1000)) as exchanges:
        for _ in range(20):
            left = exchanges.start(request(url(origin, "/bytes/1000000")))
            exchanges.wait(left.body.ready)
            left.close()
        exchange = exchanges.start(request(url(origin, "/bytes/1000000")))
        assert read_all(exchanges, exchange) == pattern(1_000_000)
    assert outbound.connections() == (0, 1)


@pytest.mark.parametrize("through", ["direct", "proxy"])
def test_what_waits_in_streams_that_nobody_reads_is_counted(
    origin: Http2Origin, authority: Authority, through: str
) -> None:
    """httpcore2 opens a window of 16 MiB for each stream, and keeps what arrives while another one is read."""
    with Tunnel(origin.port) as tunnel:
        proxy = f"http://127.0.0.1:{tunnel.port}" if through == "proxy" else None
        outbound = Outbound(Settings(ca_files=(str(authority.ca_file),), http2=True, proxy=proxy))
        # Over a connection that stands: until a tunnel does, nobody knows that it can be shared.
        assert fetch(outbound, url(origin, "/bytes/3"), policy=POLICY).body == pattern(3)
        account = Account(4 << 20)
        exchanges = outbound.begin(
            POLICY, OutboundLimits(buffer_bytes=1000), time.monotonic_ns() + 20 * 10**9, account=account
        )
        try:
            for _ in range(8):
                exchanges.start(request(url(origin, "/bytes/1000000")))
            exchange = exchanges.start(request(url(origin, "/bytes/10000000")))
            with pytest.raises(HostMemoryExceeded):
                read_all(exchanges, exchange)
        finally:
            exchanges.close()
        assert len(tunnel.asked) == (1 if proxy else 0)
        assert account.held < 1 << 16  # the reports on nine requests
        assert fetch(outbound, url(origin, "/bytes/3"), policy=POLICY).body == pattern(3)
        outbound.close()


def test_going_away_is_an_error_code(origin: Http2Origin, outbound: Outbound) -> None:
    got = fetch(outbound, url(origin, "/goaway"), policy=POLICY)
    assert got.error == ErrorCode("connection-terminated")


@pytest.mark.parametrize("seed", range(6))
def test_random_cancellations_leave_no_stream_and_no_place_taken(
    origin: Http2Origin, outbound: Outbound, seed: int
) -> None:
    dice = random.Random(seed)
    for _ in range(6):
        with invocation(outbound, POLICY) as exchanges:
            started = [
                exchanges.start(request(url(origin, dice.choice(["/echo", "/bytes/100000", "/reset", "/bytes/3"]))))
                for _ in range(10)
            ]
            for exchange in dice.sample(started, len(started)):
                if dice.random() < 0.6:
                    exchanges.wait(exchange.done, time.monotonic_ns() + dice.choice([0, 500_000, 5_000_000]))
                exchange.close()
        assert all(exchange.over() for exchange in started)
        assert outbound.connections()[0] == 0
    assert fetch(outbound, url(origin, "/bytes/100000"), policy=POLICY).body == pattern(100_000)

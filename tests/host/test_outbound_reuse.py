"""Connections that outlive an invocation, and what an invocation must not leave behind."""

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostfuncs.outbound import ErrorCode, Options, Outbound, OutboundLimits, Policy, Settings
from tests.host.outbound_client import LOOPBACK, fetch, invocation, request
from tests.origins import Origin


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def outbound() -> Iterator[Outbound]:
    engine = Outbound()
    yield engine
    engine.close()


def test_a_connection_serves_the_next_invocation(origin: Origin, outbound: Outbound) -> None:
    for _ in range(5):
        assert fetch(outbound, origin.url("/echo")).status == 200
    assert origin.connections == 1
    assert outbound.connections() == (0, 1)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_closed_between_invocations_is_noticed(origin: Origin, outbound: Outbound, method: str) -> None:
    content = b"once" if method == "POST" else None
    assert fetch(outbound, origin.url("/echo"), method, content=content).status == 200
    origin.drop_connections()
    assert fetch(outbound, origin.url("/echo"), method, content=content).status == 200
    assert len(origin.seen) == 2


def test_a_request_lost_on_a_kept_connection_is_repeated_once(origin: Origin, outbound: Outbound) -> None:
    """The origin takes the request and closes: as if the keep-alive had ended while the request was on its way."""
    assert fetch(outbound, origin.url("/echo")).status == 200
    got = fetch(outbound, origin.url("/close-silently"))
    assert got.error == ErrorCode("connection-terminated")
    assert [seen.target for seen in origin.seen] == ["/echo", "/close-silently", "/close-silently"]


def test_what_may_not_be_repeated_is_not(origin: Origin, outbound: Outbound) -> None:
    assert fetch(outbound, origin.url("/echo")).status == 200
    got = fetch(outbound, origin.url("/close-silently"), "POST", content=b"charge the card")
    assert got.error == ErrorCode("connection-terminated")
    assert [seen.target for seen in origin.seen] == ["/echo", "/close-silently"]


def test_a_fresh_connection_that_is_closed_is_not_tried_again(origin: Origin, outbound: Outbound) -> None:
    got = fetch(outbound, origin.url("/close-silently"))
    assert got.error == ErrorCode("connection-terminated")
    assert len(origin.seen) == 1


def test_an_answer_without_close_on_a_closing_connection(origin: Origin, outbound: Outbound) -> None:
    for _ in range(3):
        assert fetch(outbound, origin.url("/close")).body == b"closing"
    assert len(origin.seen) == 3


def test_old_connections_are_not_used(origin: Origin) -> None:
    engine = Outbound(Settings(keepalive_ms=0))
    for _ in range(3):
        assert fetch(engine, origin.url("/echo")).status == 200
    assert origin.connections == 3
    engine.close()


def test_bindings_with_different_policies_do_not_share_connections(origin: Origin, outbound: Outbound) -> None:
    """What one binding may reach through a name, another one that may not must not reach through its connection."""
    open_policy = Policy.parse(["http://localhost:*"])
    closed_policy = Policy.parse(["http://*:*"])
    url = f"http://localhost:{origin.port}/echo"
    assert fetch(outbound, url, policy=open_policy).status == 200
    assert fetch(outbound, url, policy=closed_policy).error == ErrorCode("destination-IP-prohibited")
    assert fetch(outbound, url, policy=Policy.parse(["http://localhost:*"])).status == 200
    assert origin.connections == 1


def test_other_policies_idle_connections_give_way(origin: Origin) -> None:
    engine = Outbound(Settings(connections=2))
    with Origin() as second:
        policies = [
            Policy.parse([f"http://127.0.0.1:{port}" for port in (origin.port, second.port, n)]) for n in (1, 2, 3)
        ]
        for policy in policies:
            assert fetch(engine, origin.url("/echo"), policy=policy).status == 200
            assert sum(engine.connections()) <= 2
    engine.close()


def test_what_an_invocation_leaves_is_cancelled_and_clean_connections_stay(origin: Origin, outbound: Outbound) -> None:
    assert fetch(outbound, origin.url("/echo")).status == 200
    exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20_000_000_000)
    kept = exchanges.start(request(origin.url("/echo")))
    exchanges.wait(kept.body.complete)
    body = exchanges.request_body()
    left = [
        exchanges.start(request(origin.url("/hold"))),
        exchanges.start(request(origin.url("/endless"))),
        exchanges.start(request(origin.url("/echo"), "POST"), body=body),
        exchanges.start(request(origin.url("/hold-body"))),
    ]
    exchanges.wait(left[1].body.ready)
    exchanges.start(request(origin.url("/echo")))
    records = exchanges.close()
    assert [record.outcome for record in records].count("dropped") == 5
    active, idle = outbound.connections()
    assert active == 0
    assert idle <= 1
    assert fetch(outbound, origin.url("/echo")).status == 200


def test_a_dropped_response_gives_its_place_back(origin: Origin, outbound: Outbound) -> None:
    with invocation(outbound, limits=OutboundLimits(concurrency=1)) as exchanges:
        first = exchanges.start(request(origin.url("/endless")))
        exchanges.wait(first.done)
        first.close()
        second = exchanges.start(request(origin.url("/echo")))
        exchanges.wait(second.body.complete)
        assert second.result().status == 200


def test_an_invocation_that_was_closed_twice_or_never_used(outbound: Outbound) -> None:
    exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20_000_000_000)
    assert exchanges.close() == []
    assert exchanges.close() == []


def test_a_pause_of_the_guest_is_not_the_origins_fault(origin: Origin, outbound: Outbound) -> None:
    """The answer lies in the socket while the guest computes longer than its own timeout."""
    with invocation(outbound) as exchanges:
        exchange = exchanges.start(request(origin.url("/hold")), Options(first_byte_timeout_ns=300_000_000))
        while not origin.seen:
            exchanges.wait(lambda: False, time.monotonic_ns() + 1_000_000)
        origin.release()
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            pass
        exchanges.wait(exchange.done)
        assert exchange.result().status == 200


def test_descriptors_do_not_grow(origin: Origin, outbound: Outbound) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    def one_round() -> None:
        fetch(outbound, origin.url("/echo"))
        fetch(outbound, origin.url("/short"))
        fetch(outbound, origin.url("/close"))
        exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20_000_000_000)
        left = exchanges.start(request(origin.url("/endless")))
        exchanges.wait(left.done)
        exchanges.close()

    one_round()
    outbound.reset()
    gc.collect()
    before = len(outbound_sockets(origin.port))
    for _ in range(20):
        one_round()
    assert len(outbound_sockets(origin.port)) <= before + 1
    assert descriptors() < 200


def outbound_sockets(port: int) -> list[str]:
    """This process's established connections to a port, from the client's side, as the kernel lists them."""
    wanted = f":{port:04X}"
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[2].endswith(wanted) and line.split()[3] == "01"]

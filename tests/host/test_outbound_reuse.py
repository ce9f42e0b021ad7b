"""Connections that outlive an invocation, and what an invocation must not leave behind."""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hostfuncs.outbound import ErrorCode, Options, Outbound, OutboundLimits, Policy, Settings
from tests.host.outbound_client import LOOPBACK, fetch, invocation, request
from tests.listeners import Listener
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


def test_bindings_with_equal_lists_do_not_share_connections(origin: Origin, outbound: Outbound) -> None:
    """An origin that authenticated a connection (NTLM, Negotiate) takes what comes over it for the first caller's."""
    for owner, connections in (("alice", 1), ("bob", 2), ("alice", 2), ("bob", 2)):
        policy = Policy.parse(["http://localhost:*"], owner=owner)
        assert fetch(outbound, f"http://localhost:{origin.port}/echo", policy=policy).status == 200
        assert origin.connections == connections


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


def test_what_is_left_on_a_kept_connection_is_reported_and_closed(origin: Origin, outbound: Outbound) -> None:
    fetch(outbound, origin.url("/echo"))
    assert outbound.connections() == (0, 1)
    exchanges = outbound.begin(LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20_000_000_000)
    exchange = exchanges.start(request(origin.url("/endless")))
    exchanges.wait(exchange.body.ready)
    held = -1
    while exchange.body.held != held:  # until the engine waits for the guest to read
        held = exchange.body.held
        exchanges.wait(lambda: False, time.monotonic_ns() + 50_000_000)
    assert [record.outcome for record in exchanges.close()] == ["dropped"]
    assert exchange.over()
    assert outbound.connections() == (0, 0)


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
        exchange = exchanges.start(request(origin.url("/hold")), Options(first_byte_timeout_ns=3_000_000_000))
        while not origin.seen:
            exchanges.wait(lambda: False, time.monotonic_ns() + 1_000_000)
        origin.release()
        until = time.monotonic() + 3.2  # time for the origin to answer, even on a slow machine
        while time.monotonic() < until:
            pass
        exchanges.wait(exchange.done)
        assert exchange.result().status == 200


class Chatty(Listener):
    """Answers every request, and says more on the connection when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    def serve(self, sock: socket.socket) -> None:
        """Answer until the client has had enough."""
        self.sockets.append(sock)
        while data := sock.recv(65536):
            assert data.endswith(b"\r\n\r\n")
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def test_what_an_origin_says_unasked_is_no_answer_to_the_next_request(outbound: Outbound) -> None:
    with Chatty() as origin:
        assert fetch(outbound, origin.url("/")).body == b"ok"
        origin.sockets[0].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert fetch(outbound, origin.url("/")).body == b"ok"
        assert origin.connections == 2


def test_at_the_limit_requests_wait_their_turn_on_one_connection(origin: Origin) -> None:
    engine = Outbound(Settings(connections=1))
    with invocation(engine) as exchanges:
        first = exchanges.start(request(origin.url("/hold")))
        later = [exchanges.start(request(origin.url(f"/status/{number}"))) for number in (201, 202, 203)]
        while not origin.seen:
            exchanges.wait(lambda: False, time.monotonic_ns() + 1_000_000)
        assert engine.connections() == (1, 0)
        origin.release()
        exchanges.wait(lambda: all(exchange.body.complete() for exchange in (first, *later)))
        assert [exchange.result().status for exchange in later] == [201, 202, 203]
    assert [seen.target for seen in origin.seen] == ["/hold", "/status/201", "/status/202", "/status/203"]
    assert origin.connections == 1
    engine.close()


def test_another_origin_gets_the_place_of_an_idle_connection(origin: Origin) -> None:
    engine = Outbound(Settings(connections=1))
    with Origin() as second:
        for _ in range(2):
            assert fetch(engine, origin.url("/echo")).status == 200
            assert fetch(engine, second.url("/echo")).status == 200
            assert engine.connections() == (0, 1)
        assert (origin.connections, second.connections) == (2, 2)
    engine.close()


def test_who_gives_up_waiting_for_a_place_takes_none(origin: Origin) -> None:
    engine = Outbound(Settings(connections=1))
    with invocation(engine) as exchanges:
        first, second, third = (exchanges.start(request(origin.url(path))) for path in ("/hold", "/echo", "/echo"))
        while not origin.seen:
            exchanges.wait(lambda: False, time.monotonic_ns() + 1_000_000)
        second.close()
        first.close()
        exchanges.wait(third.body.complete)
        assert third.result().status == 200
        assert second.over()
    assert [seen.target for seen in origin.seen] == ["/hold", "/echo"]
    assert engine.connections() == (0, 1)
    engine.close()


class Never:
    """A resolver that is asked and does not answer."""

    def __init__(self) -> None:
        self.asked = 0

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Wait for ever."""
        self.asked += 1
        await asyncio.get_running_loop().create_future()
        return []


def test_who_gives_up_while_connecting_leaves_nothing(origin: Origin) -> None:
    resolver = Never()
    engine = Outbound(Settings(connections=1), resolver=resolver)
    with invocation(engine) as exchanges:
        first = exchanges.start(request(f"http://localhost:{origin.port}/echo"))
        second = exchanges.start(request(origin.url("/echo")))
        exchanges.wait(lambda: resolver.asked == 1)
        assert engine.connections() == (1, 0)
        first.close()
        exchanges.wait(second.body.complete)
        assert second.result().status == 200
    assert engine.connections() == (0, 1)
    engine.close()


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

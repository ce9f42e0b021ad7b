"""Callers over gRPC who send frames that ask for nothing (CVE-2019-9511 to -9518, CVE-2024-27316 are their kind), and
callers who send much because they ask for much."""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from sandboxd.front.grpc.floods import FREE_BYTES, SURE_LOOKS, SURE_S, Account, Floods, peer_of
from sandboxd.front.grpc.shut_out import filter_of, shut_out
from tests.conftest import guest_component
from tests.grpc_calls import UNLIMITED, held_port, invoke
from tests.process.tree import until
from tests.running import RunningServer, write_components
from tests.server.callers import MIB, pour

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST = 512 * MIB
"""A flood that is not ended by then is not ended."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113, 4.1."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


BEGUN = PREFACE + frame(4, 0, 0)
HEADERS = b"\x83\x86"
"""`:method: POST` and `:scheme: http` (RFC 7541, appendix A)."""
FLOODS = {
    "continuation": (BEGUN + frame(1, 0, 1, HEADERS), frame(9, 0, 1, b"\x82")),
    "long continuation": (BEGUN + frame(1, 0, 1, HEADERS), frame(9, 0, 1, b"\x82" * 16384)),
    "priority": (BEGUN, frame(2, 0, 1, b"\0\0\0\0\1")),
    "window": (BEGUN, frame(8, 0, 0, b"\0\0\0\1")),
    "settings": (BEGUN, frame(4, 0, 0, b"\0\4\0\1\0\0" * 100)),
    "unknown": (BEGUN, frame(0xFE, 0, 0)),
}


class Served:
    """A server, and its gRPC port."""

    def __init__(self, server: RunningServer, port: int) -> None:
        self.server = server
        self.port = port

    def cut_off(self) -> float:
        return self.server.metric("sandboxd_callers_turned_away_total", reason="flood")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = write_components(
        tmp_path_factory.mktemp("resources"), [guest_component(name) for name in ("upper", "loop")]
    )
    environ = {"SANDBOXD_LISTEN_MAX_BODY_SIZE": "4Mi", "SANDBOXD_POOL_QUEUE_LIMIT": "256"}
    with held_port() as held:
        options = ("--workers", "2", "--grpc-fd", str(held.fileno()))
        port = held.getsockname()[1]
        with RunningServer(folder, *options, environ=environ, pass_fds=(held.fileno(),)) as server:
            server.wait_for(lambda line: line.get("event") == "serving_grpc")
            yield Served(server, port)


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_its_connection(served: Served, kind: str) -> None:
    head, again = FLOODS[kind]
    before, descriptors = served.cut_off(), len(os.listdir(f"/proc/{served.server.process.pid}/fd"))
    with grpc.insecure_channel(f"127.0.0.1:{served.port}", options=UNLIMITED) as bystander:
        assert invoke(bystander, "upper", b"a").data == b"A"
        # Each from a host of its own, which is shut out afterwards.
        host = f"127.0.1.{1 + list(FLOODS).index(kind)}"
        with socket.create_connection(("127.0.0.1", served.port), source_address=(host, 0)) as flooding:
            flooding.sendall(head)
            reading = threading.Thread(target=drain, args=(flooding,))
            reading.start()
            sent = pour(flooding, again, MOST)
            flooding.close()
            reading.join()
        assert FREE_BYTES <= sent < MOST
        until(lambda: served.cut_off() == before + 1, "it is counted")
        assert invoke(bystander, "upper", b"a").data == b"A"
    pid = served.server.process.pid
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors, "its socket is closed")


def test_who_has_flooded_is_let_in_again_after_a_while(served: Served) -> None:
    before, (head, again) = served.cut_off(), FLOODS["continuation"]

    def connect(host: str, timeout: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", served.port), timeout, source_address=(host, 0))

    with connect("127.0.2.1", 20) as flooding:
        flooding.sendall(head)
        assert pour(flooding, again, MOST) < MOST
    until(lambda: served.cut_off() == before + 1, "it is cut off")
    # The kernel sends the first packet again after a second: TCP_RTO_INITIAL.
    with pytest.raises(TimeoutError):
        connect("127.0.2.1", 0.9).close()
    connect("127.0.2.2", 5).close()
    connect("127.0.2.1", 60).close()


def drain(connection: socket.socket) -> None:
    """Read what the server sends, until either end closes."""
    reading = connection.dup()
    reading.settimeout(10)
    try:
        while reading.recv(65536):
            pass
    except OSError:
        pass
    finally:
        reading.close()


def test_who_asks_for_much_may_send_much(served: Served) -> None:
    """One connection each: large messages at once, messages that are refused as too long, and calls given up."""
    before = served.cut_off()
    large, too_large = b"a" * (3 * MIB), b"a" * (6 * MIB)
    options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{served.port}", options=options) as channel, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: invoke(channel, "upper", large), range(48)))
        assert {(answer.code, answer.message, len(answer.body) // MIB) for answer in answers} == {("OK", "", 3)}
        refused = list(pool.map(lambda _: invoke(channel, "upper", too_large), range(8)))
        assert {answer.code for answer in refused} == {"RESOURCE_EXHAUSTED"}
        given_up = list(pool.map(lambda _: invoke(channel, "loop", large, timeout=0.2), range(16)))
        assert {answer.code for answer in given_up} <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
        assert {invoke(channel, "upper", b"a").data for _ in range(200)} == {b"A"}
    assert served.cut_off() == before


def looks(floods: Floods, since: float) -> None:
    """Look as often, and for as long, as it takes to be sure."""
    for number in range(2 * SURE_LOOKS):
        floods.look(since + number * SURE_S)


def test_calls_under_way_and_those_that_were_read_count() -> None:
    turned_away: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        floods = Floods(port, 100 * FREE_BYTES, 100, turned_away.append)
        with socket.create_connection(("127.0.0.1", port)) as caller, listener.accept()[0] as accepted:
            peer = peer_of(*caller.getsockname())
            data = bytes(2 * FREE_BYTES)
            taking = threading.Thread(target=drain, args=(accepted,))
            taking.start()
            account = floods.began(peer)
            caller.sendall(data)
            looks(floods, account.since)
            assert turned_away == [], "its message may be as long"
            floods.ended(account, (("name", "value"),), len(data), 1.0)
            looks(floods, account.since)
            assert turned_away == [], "it was"
            assert pour(caller, data, MIB) >= MIB
            until(lambda: looks(floods, account.since) or bool(turned_away), "it has sent as much again, for no call")
            assert turned_away == ["flood"]
            taking.join(10)
            assert pour(caller, data, 64 * MIB) < 64 * MIB
    floods.look(account.since)
    assert repr(floods) == "<Floods with 0 accounts>"


@pytest.mark.parametrize(
    ("family", "host", "other"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.2"),
        (socket.AF_INET6, "::1", "127.0.0.1"),
        (socket.AF_INET6, "127.0.0.1", "::1"),
    ],
)
def test_hosts_are_shut_out(family: int, host: str, other: str) -> None:
    def begins(host: str) -> bool:
        caller = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        with caller:
            caller.settimeout(0.5)
            caller.bind((host, 0))
            try:
                caller.connect(("::1" if ":" in host else "127.0.0.1", port))
            except TimeoutError:
                return False
            return True

    try:
        listener = socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        port = listener.getsockname()[1]
        shut_out(listener, [])
        assert begins(host)
        assert begins(other)
        crowd = [f"10.0.0.{n}" for n in range(31)] + [f"fd00::{n:x}" for n in range(31)]
        shut_out(listener, [*crowd, host])
        assert begins(other)
        assert not begins(host)
        shut_out(listener, [other])
        assert begins(host)
        assert not begins(other)
        shut_out(listener, [])
        assert begins(host)
        assert begins(other)


def test_no_host_needs_no_filter() -> None:
    assert filter_of([]) == b""
    assert len(filter_of([f"10.0.{n >> 8}.{n & 255}" for n in range(1000)])) // 8 < 255
    assert len(filter_of([f"fd00::{n:x}" for n in range(1000)])) // 8 < 4096, "BPF_MAXINSNS"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "ipv4:127.0.0.1:5"),
        ("::ffff:127.0.0.1", "ipv4:127.0.0.1:5"),
        ("::1", "ipv6:%5B::1%5D:5"),
        ("fe80::1%eth0", "ipv6:%5Bfe80::1%25eth0%5D:5"),
    ],
)
def test_peers_are_named_as_grpcio_names_them(host: str, expected: str) -> None:
    """Source: grpcio, src/core/lib/address_utils/sockaddr_utils.cc, grpc_sockaddr_to_uri."""
    assert peer_of(host, 5) == expected


@pytest.mark.parametrize(("address", "listens"), [("::1", "[::1]:0"), ("127.0.0.1", "[::]:0"), ("::1", "[::]:0")])
def test_what_grpcio_calls_its_peers(address: str, listens: str) -> None:
    """A name of another form would have honest callers cut off."""
    seen: list[str] = []

    def note(_request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append(context.peer())
        return b""

    class Any(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _details: object) -> object:
            return grpc.unary_unary_rpc_method_handler(note)

    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((Any(),))
        try:
            port = server.add_insecure_port(listens)
        except RuntimeError:
            pytest.skip("no IPv6 here")
        server.start()
        try:
            target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            with grpc.insecure_channel(target) as channel:
                channel.unary_unary("/a/b")(b"", timeout=20)
        finally:
            server.stop(0).wait()
    (peer,) = seen
    assert peer == peer_of("::ffff:" + address if "." in address else address, int(peer.rpartition(":")[2]))


def test_an_account_is_earned() -> None:
    floods = Floods(1, MIB, 100, lambda _: None)
    account = floods.began("ipv4:1.2.3.4:5")
    assert floods.began("ipv4:1.2.3.4:5") is account
    assert isinstance(account, Account)
    for size, seconds, most in ((0, 9.0, 5000), (MIB, 0.0, 1.3 * MIB), (None, 0.0, 5000), (None, 9.0, 1.3 * MIB)):
        before = account.allowed
        floods.ended(account, (), size, seconds)
        assert 0 < account.allowed - before <= most, (size, seconds)

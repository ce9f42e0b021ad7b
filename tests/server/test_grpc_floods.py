"""Callers over gRPC who send frames that ask for nothing (CVE-2019-9511 to -9518, CVE-2023-44487 and CVE-2024-27316 are
their kind), and callers who send much because they ask for much.

Not tested here: each rule by itself (`tests/unit/test_grpc_bounds.py`).
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from hpack import Encoder

from sandboxd.front.grpc.proto import runtime_pb2
from tests.conftest import guest_component
from tests.grpc_calls import DAPR, UNLIMITED, held_port, invoke
from tests.process.tree import until
from tests.running import RunningServer, write_components
from tests.server.callers import MIB, pour

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST = 64 * MIB
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
    "priority": (BEGUN, frame(2, 0, 1, b"\0\0\0\3\1")),
    "window": (BEGUN, frame(8, 0, 0, b"\0\0\0\1")),
    "ping": (BEGUN, frame(6, 0, 0, b"12345678")),
    "settings": (BEGUN, frame(4, 0, 0, b"\0\3\0\1\0\0" * 100)),
    "unknown": (BEGUN, frame(0xFE, 0, 0)),
    "no preface": (b"\0", b"\0" * 1000),
}


class Served:
    """A server, and its gRPC port."""

    def __init__(self, server: RunningServer, port: int) -> None:
        self.server = server
        self.port = port

    def cut_off(self) -> float:
        return sum(
            self.server.metric("sandboxd_callers_turned_away_total", reason=reason) for reason in ("flood", "malformed")
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def resident(self) -> int:
        with open(f"/proc/{self.server.process.pid}/status") as status:
            return int(status.read().split("VmRSS:")[1].split()[0]) * 1024


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = write_components(
        tmp_path_factory.mktemp("resources"), [guest_component(name) for name in ("upper", "loop")]
    )
    environ = {
        "SANDBOXD_LISTEN_MAX_BODY_SIZE": "4Mi",
        "SANDBOXD_POOL_QUEUE_LIMIT": "256",
        "SANDBOXD_LISTEN_MAX_PEER_CONNECTIONS": "40",
    }
    with held_port() as held:
        options = ("--workers", "2", "--grpc-fd", str(held.fileno()))
        port = held.getsockname()[1]
        with RunningServer(folder, *options, environ=environ, pass_fds=(held.fileno(),)) as server:
            server.wait_for(lambda line: line.get("event") == "serving_grpc")
            yield Served(server, port)


def drain(reading: socket.socket) -> None:
    """Read what the server sends, until either end closes."""
    with reading, contextlib.suppress(OSError):
        reading.settimeout(60)
        while reading.recv(65536):
            pass


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_its_connection_and_no_other(served: Served, kind: str, reads: bool) -> None:
    head, again = FLOODS[kind]
    before, descriptors = served.cut_off(), len(os.listdir(f"/proc/{served.server.process.pid}/fd"))
    memory = served.resident()
    with grpc.insecure_channel(f"127.0.0.1:{served.port}", options=UNLIMITED) as bystander:
        assert invoke(bystander, "upper", b"a").data == b"A"
        with served.connect() as flooding:
            flooding.sendall(head)
            reading = threading.Thread(target=drain, args=(flooding.dup(),)) if reads else None
            if reading is not None:
                reading.start()
            sent = pour(flooding, again, MOST)
            flooding.close()
            if reading is not None:
                reading.join()
        assert sent < MOST
        until(lambda: served.cut_off() == before + 1, "it is counted")
        # The same host is let in again at once, and its other connections were not touched.
        assert invoke(bystander, "upper", b"a").data == b"A"
        served.connect().close()
    pid = served.server.process.pid
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors, "its socket is closed")
    until(lambda: served.resident() < memory + 16 * MIB, "it leaves no memory taken")


def test_rapid_resets_end_their_connection(served: Served) -> None:
    """CVE-2023-44487: calls that are cancelled as soon as they are made. Each may have begun to run."""
    before, encoder = served.cut_off(), Encoder()
    head = [
        (":method", "POST"), (":scheme", "http"), (":path", DAPR + "InvokeBinding"), (":authority", "x"),
        ("te", "trailers"), ("content-type", "application/grpc"),
    ]  # fmt: skip
    message = runtime_pb2.InvokeBindingRequest(name="loop", operation="execute").SerializeToString()
    data = b"\0" + len(message).to_bytes(4) + message
    calls = [
        frame(1, 4, stream, encoder.encode(head)) + frame(0, 1, stream, data) + frame(3, 0, stream, b"\0\0\0\x08")
        for stream in range(1, 2001, 2)
    ]
    with served.connect() as flooding:
        reading = threading.Thread(target=drain, args=(flooding.dup(),))
        reading.start()
        with contextlib.suppress(ConnectionError):  # it may be ended while this is on its way
            flooding.sendall(BEGUN + b"".join(calls))
        until(lambda: served.cut_off() == before + 1, "it is cut off")
        flooding.close()
        reading.join()
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        until(lambda: invoke(channel, "upper", b"a").data == b"A", "a free worker")


def test_a_crowd_of_one_host_does_not_keep_others_out(served: Served) -> None:
    """The connections that have been idle for longest make room, from one address as in all."""
    crowd = []
    try:
        for _ in range(45):
            crowd.append(served.connect())
            crowd[-1].sendall(BEGUN)
        crowd[0].settimeout(60)
        while crowd[0].recv(65536):
            pass  # its settings, then the end
        with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
            assert invoke(channel, "upper", b"a").data == b"A"
        assert served.server.metric("sandboxd_callers_turned_away_total", reason="connections") >= 5
    finally:
        for one in crowd:
            one.close()


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

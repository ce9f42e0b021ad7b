"""How long do others wait while one caller sends hostile JSON: bodies of 4 MiB that take a decoder long?

Eight connections send such bodies without a pause, from processes of their own. A bystander calls another binding with
a small body every 10 ms. Its latencies are taken without and with the attack, in one run.

    python -m bench.hostile_json [--quick] [--rounds N] [--seconds S] [--json FILE]
"""

import multiprocessing
import socket
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from bench.measure import Bar, Record, end, options, quantile
from tests.conftest import guest_component
from tests.running import RunningServer, write_components

P99_BAR_MS = 20.0
CONNECTIONS = 8
PERIOD_S = 0.01
MOST_BYTES = 4 * 1024 * 1024 - 1024
SMALL = b'{"operation":"execute","data":"x"}'
PIECES = {
    "empty lists": (b"[", b"[],", b"[]]"),
    "nested lists": (b"", b"[" * 500 + b"]" * 500 + b",", b"0"),
    "empty objects": (b"[", b'{"a":{}},', b"{}]"),
    "numbers": (b"[", b"1e21,-0,1.0,", b"0]"),
    "escapes": (b'"', b"\\u003c", b'"'),
}
"""The beginning, what is repeated, and the end of `data`."""


def hostile() -> list[bytes]:
    """The bodies."""
    found = []
    for begin, piece, last in PIECES.values():
        if piece.startswith(b"[["):
            begin, last = b"[", b"0]"
        found.append(b'{"operation":"execute","data":' + begin + piece * (MOST_BYTES // len(piece)) + last + b"}")
    return found


def request(binding: str, body: bytes) -> bytes:
    """A request over HTTP/1.1."""
    head = f"POST /v1.0/bindings/{binding} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer(connection: socket.socket) -> bytes:
    """Read one answer with a Content-Length; empty if the connection ended before."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        part = connection.recv(1 << 20)
        if not part:
            return b""
        body += part
    return head


def attack(port: int, stop: Event, number: int) -> None:
    """One of the connections."""
    requests = [request("victim", body) for body in hostile()]
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                while not stop.is_set():
                    connection.sendall(requests[number % len(requests)])
                    number += 1
                    if not answer(connection):
                        break
        except OSError:
            time.sleep(0.01)


def bystander(port: int, seconds: float) -> list[float]:
    """Latencies in milliseconds, sorted."""
    small, times = request("echo", SMALL), []
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            before = time.perf_counter()
            connection.sendall(small)
            head = answer(connection)
            times.append((time.perf_counter() - before) * 1e3)
            assert b" 200 " in head.partition(b"\r\n")[0], head
            time.sleep(max(0.0, PERIOD_S - (time.perf_counter() - before)))
    return sorted(times)


def main() -> int:
    """Measure and print."""
    given = options(__doc__)
    seconds = 4.0 if given.quick else 20.0
    record = Record(
        question="hostile_json",
        title="Bystanders of hostile JSON",
        columns=("what", "p50", "p99", "max", "unit", "samples"),
    )
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        documents = [guest_component("echo"), guest_component("victim", "echo", timeout="10s")]
        resources = write_components(Path(scratch) / "resources", documents)
        with RunningServer(resources, "--workers", "2") as server:
            bystander(server.port, 1.0)
            _add(record, "nobody attacks", bystander(server.port, seconds / 2))
            stop = processes.Event()
            attackers = [
                processes.Process(target=attack, args=(server.port, stop, number)) for number in range(CONNECTIONS)
            ]
            for attacker in attackers:
                attacker.start()
            time.sleep(3)  # they build their bodies, and the decoders start
            _add(record, f"4 MiB of hostile JSON on {CONNECTIONS} connections", bystander(server.port, seconds))
            stop.set()
            for attacker in attackers:
                attacker.join(20)
                attacker.kill()
    record.bars.append(
        Bar(what="p99 of a bystander under attack", want=P99_BAR_MS, got=record.rows[1]["p99"], unit="ms")
    )
    return end(record, given)


def _add(record: Record, what: str, times: list[float]) -> None:
    p50, p99, most = (round(quantile(times, q), 2) for q in (0.5, 0.99, 1.0))
    record.add(what=what, p50=p50, p99=p99, max=most, unit="ms", samples=len(times))


if __name__ == "__main__":
    sys.exit(main())

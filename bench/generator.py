"""A load generator in one process: closed loop (each connection sends again when answered) or open loop (Poisson).

Open loop: instants are drawn beforehand and a request is sent at its instant, or, if all connections are in use, as
soon as one is free; its latency counts from the planned instant, so waiting is never hidden (no coordinated omission).
It says how late it noticed instants, and whether it was the limit itself: above 90 % of a core, or usually more than a
millisecond late, its figures are about itself.

HTTP/1.1 with keep-alive, or HTTP/2 with prior knowledge. One blocking epoll loop, a timerfd for instants to the
microsecond, and constant request bytes. Over HTTP/1.1 bench/generator.c does the same for about half the processor
time, where it can be built; change the two together.

    python -m bench.generator --url http://127.0.0.1:3500/v1.0/bindings/x --body FILE --connections 64 --seconds 5
        [--rate 2000] [--http2 --streams 8] [--seed 1]

Prints one JSON object.
"""

import argparse
import ctypes
import gc
import json
import random
import select
import socket
import struct
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

from bench.measure import quantile

READ_BYTES = 1 << 16
LIMIT_SHARE = 0.9
LIMIT_LATE_NS = 1_000_000
"""CPU of one core, and usual lateness: beyond either the generator is taken for the limit."""
DRAIN_S = 5.0
"""How long answers may take after the last request. One left behind would be cancelled, and its worker killed."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK = 1, 1
_STATUS_200 = 0x88
"""`:status 200` is one byte in HPACK's static table (RFC 7541, appendix A, index 8)."""


class Http1:
    """One connection: requests one after the other."""

    room = 1

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._held = b""
        self._planned: deque[int] = deque()

    def begin(self, planned_ns: int) -> None:
        """Send one request."""
        self._planned.append(planned_ns)
        self.room -= 1
        self.sock.sendall(self._request)

    def arrived(self) -> list[tuple[int, bool]]:
        """Return the answers: (planned instant, whether with 200).

        Raises:
            ConnectionError: the server closed the connection.
        """
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise ConnectionError("closed by the server")
        held = self._held + data if self._held else data
        done = []
        while (at := held.find(b"\r\n\r\n")) >= 0:
            head = held[:at].lower()
            length_at = head.find(b"content-length:")
            if length_at < 0:
                raise ConnectionError(f"an answer without content-length: {head[:80]!r}")
            end = at + 4 + int(head[length_at + 15 :].split(b"\r\n", 1)[0])
            if len(held) < end:
                break
            done.append((self._planned.popleft(), head.startswith(b"http/1.1 200")))
            self.room += 1
            held = held[end:]
        self._held = held
        return done


class Http2:
    """One connection with several streams at a time."""

    def __init__(self, address: tuple[str, int], head_block: bytes, body: bytes, streams: int) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.room = streams
        self._head, self._body = head_block, body
        self._held = b""
        self._next = 1
        self._open: dict[int, tuple[int, bool]] = {}
        # A window no benchmark fills: INITIAL_WINDOW_SIZE and a WINDOW_UPDATE for the connection.
        settings = struct.pack(">HI", 4, 2**31 - 1)
        self.sock.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, struct.pack(">I", 2**31 - 1 - 65535))
        )

    def begin(self, planned_ns: int) -> None:
        """Open one stream."""
        stream, self._next = self._next, self._next + 2
        self._open[stream] = (planned_ns, False)
        self.room -= 1
        self.sock.sendall(_frame(_HEADERS, 4, stream, self._head) + _frame(_DATA, _END_STREAM, stream, self._body))

    def arrived(self) -> list[tuple[int, bool]]:
        """As of Http1."""
        data = self.sock.recv(READ_BYTES)
        if not data:
            raise ConnectionError("closed by the server")
        held = self._held + data
        at, done = 0, []
        while len(held) - at >= 9:
            length = int.from_bytes(held[at : at + 3], "big")
            if len(held) - at - 9 < length:
                break
            kind, flags = held[at + 3], held[at + 4]
            stream = int.from_bytes(held[at + 5 : at + 9], "big")
            payload = held[at + 9 : at + 9 + length]
            at += 9 + length
            if kind == _SETTINGS and not flags & _ACK:
                self.sock.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self.sock.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY:
                raise ConnectionError("GOAWAY")
            elif kind == _HEADERS:
                self._open[stream] = (self._open[stream][0], payload[:1] == bytes((_STATUS_200,)))
            if kind == _RST or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                planned, ok = self._open.pop(stream)
                done.append((planned, ok and kind != _RST))
                self.room += 1
        self._held = held[at:]
        return done


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


class Timer:
    """A descriptor that becomes readable at an instant."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        # Without this the kernel may be 50 us late.
        self._libc.prctl(29, 1, 0, 0, 0)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, 0)

    def set(self, instant_ns: int) -> None:
        """CLOCK_MONOTONIC."""
        spec = struct.pack("qqqq", 0, 0, *divmod(max(1, instant_ns), 10**9))
        self._libc.timerfd_settime(self.fd, 1, spec, None)


class Load:
    """One run."""

    def __init__(self, connections: list[Http1] | list[Http2], seconds: float, rate: float, seed: int) -> None:
        self._connections = {connection.sock.fileno(): connection for connection in connections}
        self._free: list[Http1 | Http2] = [c for c in connections for _ in range(c.room)]
        self._seconds = seconds
        self._plan: list[int] = []
        if rate:
            draw, at = random.Random(seed), 0.0
            while (at := at + draw.expovariate(rate)) < seconds:
                self._plan.append(int(at * 1e9))
        self._rate = rate
        self.latencies: list[int] = []
        self.late: list[int] = []
        self.failed = 0

    def run(self) -> dict[str, float]:
        """To its end."""
        epoll, timer = select.epoll(), Timer()
        for fd in self._connections:
            epoll.register(fd, select.EPOLLIN)
        epoll.register(timer.fd, select.EPOLLIN)
        gc.collect()
        gc.freeze()
        gc.disable()
        cpu = time.process_time()
        began = time.monotonic_ns()
        end = began + int(self._seconds * 1e9)
        plan = deque(began + offset for offset in self._plan)
        waiting: deque[int] = deque()
        if not self._rate:
            for connection in self._free:
                connection.begin(time.monotonic_ns())
        outstanding = 0 if self._rate else len(self._free)
        if not self._rate:
            self._free.clear()
        total, done = len(plan), 0
        timer.set(plan[0] if plan else end)
        while True:
            now = time.monotonic_ns()
            while plan and plan[0] <= now:
                self.late.append(now - plan[0])
                waiting.append(plan.popleft())
            while waiting and self._free:
                self._free.pop().begin(waiting.popleft())
                outstanding += 1
            over = (done == total) if self._rate else (now >= end and not outstanding)
            if over or now > end + DRAIN_S * 1e9:
                break
            timer.set(plan[0] if plan else end if now < end else end + int(DRAIN_S * 1e9) + 1)
            for fd, _ in epoll.poll():
                if fd == timer.fd:
                    continue
                connection = self._connections[fd]
                answers = connection.arrived()
                now = time.monotonic_ns()
                for planned, ok in answers:
                    outstanding -= 1
                    done += self._rate > 0 or now <= end
                    self.latencies.append(now - planned)
                    self.failed += not ok
                    if self._rate:
                        self._free.append(connection)
                    elif now < end:
                        connection.begin(now)
                        outstanding += 1
        took = (time.monotonic_ns() - began) / 1e9
        # In open loop also what was planned and never left: it waited for a connection until the end.
        unanswered = total - done if self._rate else outstanding
        return self._summary(took if self._rate else self._seconds, time.process_time() - cpu, done, unanswered)

    def _summary(self, took: float, cpu: float, done: int, unanswered: int) -> dict[str, float]:
        ordered, late = sorted(self.latencies), sorted(self.late)
        out = {
            "requests": done,
            "seconds": took,
            "failed": self.failed + unanswered,
            "cpu_share": round(cpu / took, 3),
            "limited": cpu / took > LIMIT_SHARE or quantile(late, 0.5) > LIMIT_LATE_NS,
            "late_p99_us": round(quantile(late, 0.99) / 1e3, 1),
        }
        for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
            out[f"{name}_us"] = round(quantile(ordered, fraction) / 1e3, 1)
        return out


def connections_to(url: str, body: bytes, count: int, *, http2: bool, streams: int) -> list[Http1] | list[Http2]:
    """Connected, with their request ready."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    address = (parts.hostname, parts.port or 80)
    path = parts.path.encode()
    if not http2:
        head = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n" % (path, parts.netloc.encode())
        request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        return [Http1(address, request) for _ in range(count)]
    from hpack import Encoder

    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", parts.netloc.encode()),
        (b":path", path),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    # Sensitive fields are never indexed, so the block is the same for every stream.
    block = Encoder().encode([(name, value, True) for name, value in fields], huffman=False)
    return [Http2(address, block, body, streams) for _ in range(count)]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second; 0 for a closed loop")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--http2", action="store_true")
    parser.add_argument("--streams", type=int, default=1)
    given = parser.parse_args()
    body = given.body.read_bytes()
    made = connections_to(given.url, body, given.connections, http2=given.http2, streams=given.streams)
    print(json.dumps(Load(made, given.seconds, given.rate, given.seed).run()))


if __name__ == "__main__":
    main()

"""Origins over HTTP/1.1 that mean harm: what they say, byte for byte, and what a guest is told of it.

The expectations are those of RFC 9112 and of Go's client, which refuses the same answers.
"""

import os
import re
import shutil
import socket
import subprocess
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path

import httpx2 as httpx
import pytest

from hostfuncs.outbound import DeadlineExceeded, ErrorCode, Options, Outbound, OutboundError, Policy, Settings
from tests.host.legacy_guests import c_client
from tests.host.legacy_runner import Runner
from tests.host.outbound_client import fetch, invocation, request
from tests.host.outbound_through import Through
from tests.listeners import Listener
from tests.origins import Authority

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"
FINE = OK + b"Content-Length: 4\r\n\r\nfine"
HEAD = "HTTP-response-header-section-size"
TRAILER = "HTTP-response-trailer-section-size"
PROTOCOL = "HTTP-protocol-error"
CODING = "HTTP-response-transfer-coding"


class Raw(Listener):
    """Answers every request with the bytes of its path; with FINE where there are none."""

    def __init__(self, answers: dict[str, Iterable[bytes]]) -> None:
        super().__init__()
        self._answers = answers
        self.asked: list[str] = []

    def serve(self, sock: socket.socket) -> None:
        """One request after the other."""
        while head := self._head(sock):
            self.asked.append(head.split(b" ")[1].decode()[1:])
            for piece in self._answers.get(self.asked[-1], [FINE]):
                sock.sendall(piece)

    @staticmethod
    def _head(sock: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = sock.recv(4096)
            if not more:
                return b""
            head += more
        return head


class endless:  # noqa: N801 - reads as a function
    """What never stops. Each connection gets it from its beginning."""

    def __init__(self, piece: bytes, first: bytes = b"") -> None:
        self._pieces = piece * max(1, 65536 // len(piece))
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        return chain([self._first], repeat(self._pieces))


@pytest.fixture
def outbound() -> Iterator[Outbound]:
    engine = Outbound()
    yield engine
    engine.close()


REFUSED: dict[str, tuple[Iterable[bytes], str]] = {
    # What never ends: the guest is told long before it would time out.
    "interim-responses": (endless(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"), HEAD),
    "head-line": (endless(b"x", OK + b"a: "), HEAD),
    "head-lines": (endless(b"a: b\r\n", OK), HEAD),
    "chunk-extension": (endless(b"x", CHUNKED + b"5;"), TRAILER),
    "trailers": (endless(b"a: b\r\n", CHUNKED + b"5\r\nhello\r\n0\r\n"), TRAILER),
    "cookies": ([OK + b"Set-Cookie: a=b\r\n" * 2000 + EMPTY], HEAD),
    # What has two readings, or none.
    "chunk-size-overflow": ([CHUNKED + b"F" * 40 + b"\r\nhello\r\n0\r\n\r\n"], PROTOCOL),
    "chunk-size-sign": ([CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"], PROTOCOL),
    "chunk-size-prefix": ([CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n"], PROTOCOL),
    "chunk-longer": ([CHUNKED + b"3\r\nhello\r\n0\r\n\r\n"], PROTOCOL),
    "two-lengths": ([OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"], PROTOCOL),
    "coding-and-length": (
        [OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
        PROTOCOL,
    ),
    "length-and-coding": (
        [OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
        PROTOCOL,
    ),
    "chunk-without-size": ([CHUNKED + b"\r\nhello\r\n0\r\n\r\n"], PROTOCOL),
    "chunk-after-space": ([CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n"], PROTOCOL),
    "chunk-of-zeros": (endless(b"0", CHUNKED), TRAILER),
    "trailer-coding": ([CHUNKED + b"5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n"], CODING),
    "trailer-nul": ([CHUNKED + b"5\r\nhello\r\n0\r\nA: b\0c\r\n\r\n"], PROTOCOL),
    "nul-in-name": ([OK + b"X\0: a\r\n" + EMPTY], PROTOCOL),
    "nul-in-reason": ([b"HTTP/1.1 200 O\0K\r\n" + EMPTY], PROTOCOL),
    "empty-name": ([OK + b": a\r\n" + EMPTY], PROTOCOL),
    "switch": ([b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello"], PROTOCOL),
    "length-sign": ([OK + b"Content-Length: +5\r\n\r\nhello"], PROTOCOL),
    "length-overflow": ([OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello"], PROTOCOL),
    "coding-twice": ([OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n"], CODING),
    "http-0.9": ([b"hello\r\n\r\n"], PROTOCOL),
    "http-2": ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], PROTOCOL),
    "space-before-colon": ([OK + b"Content-Length : 5\r\n\r\nhello"], PROTOCOL),
    "nul": ([OK + b"X: a\0b\r\n" + EMPTY], PROTOCOL),
    "bare-cr": ([OK + b"X: a\rContent-Length: 9\r\nContent-Length: 5\r\n\r\nhello"], PROTOCOL),
    "folded-first-line": ([OK + b" X: a\r\n" + EMPTY], PROTOCOL),
    "status-099": ([b"HTTP/1.1 099 OK\r\n" + EMPTY], PROTOCOL),
    "status-2000": ([b"HTTP/1.1 2000 OK\r\n" + EMPTY], PROTOCOL),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_hostile_origin_says_is_refused_and_nothing_of_it_kept(outbound: Outbound, name: str) -> None:
    answer, code = REFUSED[name]
    with Raw({name: answer}) as origin:
        got = fetch(outbound, origin.url(f"/{name}"))
        assert got.error is not None
        assert got.error.name == code
        assert outbound.connections() == (0, 0)
        assert fetch(outbound, origin.url("/")).body == b"fine"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    ],
    ids=["same lengths", "list of lengths", "bare LF"],
)
def test_what_is_odd_and_has_one_reading_is_read_so(outbound: Outbound, answer: bytes) -> None:
    """RFC 9110, section 8.6, and RFC 9112, section 2.2."""
    with Raw({"odd": [answer]}) as origin:
        assert fetch(outbound, origin.url("/odd")).body == b"hello"
        assert fetch(outbound, origin.url("/")).body == b"fine"


def test_a_body_that_drips_is_late_however_small_its_pieces_are(outbound: Outbound) -> None:
    """Each byte of a chunk's size comes in time, and no content ever does."""
    answers: dict[str, Iterable[bytes]] = {}
    with Raw(answers) as origin:

        def drip() -> Iterator[bytes]:
            yield CHUNKED
            while not origin.released.wait(0.01):
                yield b"0"

        answers["drip"] = drip()
        got = fetch(outbound, origin.url("/drip"), options=Options(between_bytes_timeout_ns=300_000_000))
        assert got.error is not None
        assert got.error.name in ("connection-read-timeout", TRAILER)
        assert fetch(outbound, origin.url("/")).body == b"fine"


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "interim-responses"])
def test_what_a_proxy_passes_on_is_refused_as_well(name: str) -> None:
    """With the same codes: an answer that makes no sense is no hanging up, after which a request may be sent again."""
    answer, code = REFUSED[name]
    # The proxy reads a whole URL, and its first letter is not looked at.
    with Raw({f"ttp://origin.test/{name}": answer}) as proxy:
        outbound = Outbound(Settings(proxy=f"http://127.0.0.1:{proxy.port}"))
        policy = Policy.parse(["http://origin.test"])
        try:
            # Over a connection that was used before.
            assert fetch(outbound, "http://origin.test/", policy=policy).body == b"fine"
            got = fetch(outbound, f"http://origin.test/{name}", policy=policy)
            assert got.error is not None
            assert got.error.name == code
            assert outbound.connections() == (0, 0)
            assert proxy.asked == ["ttp://origin.test/", f"ttp://origin.test/{name}"]
            assert fetch(outbound, "http://origin.test/", policy=policy).body == b"fine"
        finally:
            outbound.close()


OPENED = b"HTTP/1.1 200 Connection established\r\n"
TUNNELS: dict[str, tuple[Iterable[bytes], str]] = {
    "garbage": ([b"\0\xff\xfe no HTTP\r\n\r\n"], PROTOCOL),
    "nul": ([OPENED + b"X: a\0b\r\n\r\n"], PROTOCOL),
    "two-lengths": ([OPENED + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"], PROTOCOL),
    "head-line": (endless(b"x", OPENED + b"a: "), HEAD),
    "head-lines": (endless(b"a: b\r\n", OPENED), HEAD),
    "no-line": (endless(b"\0"), PROTOCOL),
    "switch": ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n"], PROTOCOL),
    "refusal": ([b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno"], "destination-unavailable"),
    "endless-refusal": (endless(b"x", b"HTTP/1.1 403 No\r\n\r\n"), "destination-unavailable"),
    "elsewhere": (
        [b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n" + EMPTY],
        "destination-unavailable",
    ),
    # What looks like a tunnel and leads nowhere. Bytes behind the head are nobody's.
    "interim-responses": (endless(b"HTTP/1.1 103 Early Hints\r\n\r\n"), "connection-read-timeout"),
    "unfinished": ([b"HTTP/1.1 200"], "connection-read-timeout"),
    "content": ([OPENED + b"Content-Length: 5\r\n\r\nhello"], "connection-read-timeout"),
    "answer": ([OPENED + b"\r\n" + FINE], "connection-read-timeout"),
    # More than comes with the head: the rest is read as TLS.
    "no-tls": (endless(b"\0", OPENED + b"\r\n"), "TLS-protocol-error"),
    "endless": (endless(b"\x16\x03\x03\x40\x00", OPENED + b"\r\n"), "TLS-protocol-error"),
}


@pytest.mark.parametrize("name", TUNNELS)
def test_what_a_proxy_answers_to_connect_is_an_error_and_nothing_of_it_kept(name: str) -> None:
    answer, code = TUNNELS[name]
    with Raw({"rigin.test:443": answer}) as proxy:
        outbound = Outbound(Settings(proxy=f"http://127.0.0.1:{proxy.port}"))
        policy = Policy.parse(["*://origin.test"])
        try:
            patient = code.endswith("timeout")
            wait = Options(first_byte_timeout_ns=300_000_000) if patient else None
            got = fetch(outbound, "https://origin.test/", policy=policy, options=wait)
            assert got.error is not None
            assert got.error.name == code
            assert outbound.connections() == (0, 0)
            assert fetch(outbound, "http://origin.test/", policy=policy).body == b"fine"
        finally:
            outbound.close()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", OK + b"Content-Length: 6\r\n\r\npoison"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\npoison"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\npoison"),
        ("GET", OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
        ("GET", CHUNKED + b"2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
    ],
)
def test_what_follows_a_response_is_no_answer_to_the_next_request(
    outbound: Outbound, method: str, answer: bytes
) -> None:
    with Raw({"poisoned": [answer]}) as origin:
        assert fetch(outbound, origin.url("/poisoned"), method).body in (b"", b"ok")
        assert fetch(outbound, origin.url("/")).body == b"fine"
        assert origin.connections == 2


def test_a_head_that_drips_is_late_however_often_a_line_of_it_comes(outbound: Outbound) -> None:
    answers: dict[str, Iterable[bytes]] = {}
    with Raw(answers) as origin:

        def drip() -> Iterator[bytes]:
            yield OK
            while not origin.released.wait(0.01):
                yield b"a: b\r\n"

        answers["drip"] = drip()
        got = fetch(outbound, origin.url("/drip"), options=Options(first_byte_timeout_ns=300_000_000))
        assert got.error == ErrorCode("connection-read-timeout")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command to play the origin")
def test_an_origin_cannot_negotiate_tls_anew(tmp_path: Path) -> None:
    """Each time costs the client a handshake, and TLS 1.3 has none of it. Go's client refuses it as well."""
    authority = Authority(tmp_path)
    chain_file, key_file = authority.issue("localhost")
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-tls1_2"]
    command += ["-cert", str(chain_file), "-key", str(key_file)]
    outbound = Outbound(Settings(ca_files=(str(authority.ca_file),)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        said, output = bytearray(), server.stdout.fileno()
        try:
            while (accepts := re.search(rb"ACCEPT 127\.0\.0\.1:(\d+)\n", said)) is None:
                said += os.read(output, 4096)
            with invocation(outbound, Policy.parse(["https://localhost:*"])) as exchanges:
                exchange = exchanges.start(request(f"https://localhost:{int(accepts[1])}/"))
                exchanges.watch(output, lambda: said.extend(os.read(output, 4096)))
                exchanges.wait(lambda: b"GET / HTTP/1.1" in said)
                server.stdin.write(b"r\n")
                server.stdin.flush()
                exchanges.wait(exchange.done)
                with pytest.raises(OutboundError, match="TLS-"):
                    exchange.result()
        finally:
            server.kill()
            outbound.close()


def test_an_origin_that_never_pauses_does_not_keep_a_guest_past_its_deadline(outbound: Outbound) -> None:
    """One `read` of Dapr's wasi-http takes in what arrives meanwhile, and chunks of one byte take long to parse."""
    with Raw({"endless": endless(b"1\r\na\r\n", CHUNKED)}) as origin, invocation(outbound, timeout_s=3) as exchanges:
        exchange = exchanges.start(request(origin.url("/endless")))
        exchanges.wait(exchange.body.ready)

        def drain() -> None:
            while exchange.body.received < 1 << 30:
                exchanges.turn()
                exchange.body.read(1 << 20)

        with pytest.raises(DeadlineExceeded):
            drain()


class Following(httpx.AsyncBaseTransport):
    """A transport that follows redirects, as an operator's may."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._client = httpx.AsyncClient(transport=inner, follow_redirects=True)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        return await self._client.get(request.url)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://169.254.169.254/latest/meta-data/", "destination-IP-prohibited"),
        ("http://[::ffff:169.254.169.254]/", "destination-IP-prohibited"),
        ("http://elsewhere.test/", "HTTP-request-denied"),
        ("http://127.0.0.1:1/", "HTTP-request-denied"),
    ],
)
def test_a_transport_that_follows_redirects_is_led_nowhere_else(location: str, code: str) -> None:
    moved = [b"HTTP/1.1 302 Found\r\nLocation: %s\r\n%s" % (location.encode(), EMPTY)]
    with Raw({"moved": moved, "home": [b"HTTP/1.1 302 Found\r\nLocation: /\r\n" + EMPTY]}) as origin:
        policy = Policy.parse([origin.url(""), "http://169.254.0.0/16"])
        outbound = Through(Following)
        try:
            assert fetch(outbound, origin.url("/home"), policy=policy).body == b"fine"
            got = fetch(outbound, origin.url("/moved"), policy=policy)
            assert got.error is not None
            assert got.error.name == code
        finally:
            outbound.close()


@pytest.mark.build
def test_names_of_headers_do_not_stay_behind_a_run() -> None:
    """Names are spelled as Go spells them, and what is spelled often is kept; what an origin makes up is not."""
    long = ("n" * 60_000 + str(number) for number in range(40))
    answers: dict[str, Iterable[bytes]] = {}
    with Raw(answers) as origin:
        runner = Runner(c_client())
        try:
            held = []
            for name in long:
                answers["names"] = [OK + name.encode() + b": 1\r\n" + EMPTY]
                assert name.capitalize().encode() in runner.run(origin.url("/names")).stdout
                if not tracemalloc.is_tracing():
                    tracemalloc.start()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
            runner.outbound.close()
        # 39 names, each as it came and as it is spelled, are 4.7 MB.
        assert held[-1] - held[0] < 1_000_000


def test_idle_connections_keep_nothing_of_what_they_brought(outbound: Outbound) -> None:
    head = OK + b"X: " + b"x" * 60_000 + b"\r\n" + EMPTY
    with Raw({"large": [head]}) as origin:

        def run() -> None:
            with invocation(outbound) as exchanges:
                started = [exchanges.start(request(origin.url("/large"))) for _ in range(20)]
                exchanges.wait(lambda: all(exchange.body.complete() for exchange in started))

        run()
        tracemalloc.start()
        run()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert outbound.connections() == (0, 20)
        # Twenty heads are 1.2 MB.
        assert held < 400_000

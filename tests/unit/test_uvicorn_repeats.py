"""Heads that a connection repeats: they are not parsed again, and answered as if they were.

Not tested here: what is answered (tests/server), and what that saves (bench/counts.py).
"""

import asyncio
import re
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from hypothesis import given
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from bench.frontpath import Ready
from sandboxd.components.binding import Binding
from sandboxd.front.http.app import App
from sandboxd.front.ports import Bindings, FrontSettings
from sandboxd.front.servers.connections import CallerLimits, Connections
from sandboxd.front.servers.refusals import Refusals
from sandboxd.front.servers.uvicorn_feeding import FeedingProtocol
from sandboxd.front.servers.uvicorn_protocol import BoundedProtocol, bounded_protocol
from sandboxd.metrics import Metrics
from tests.server.echo_front import StandIn
from tests.unit.test_uvicorn_cycle import Transport

_traces = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")


class CountingParser:
    """Counts what the parser is fed."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self.fed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        self.fed += 1
        self._parser.feed_data(data)


class Front:
    """A front whose guests echo. Made on a running loop."""

    def __init__(self) -> None:
        metrics = Metrics(version="0")
        self.app = App(FrontSettings(version="0"), StandIn(), metrics, Ready())
        self.serve("echo", "other")
        self._config = Config(self.app, interface="asgi3", lifespan="off", ws="none", log_config=None)
        refusals = Refusals()
        self.repeating = bounded_protocol(4096, Connections(CallerLimits(), refusals), refusals, self.app.direct)
        self.parsing = type("Parsing", (self.repeating,), {"data_received": FeedingProtocol.data_received})
        self._metrics = metrics

    def serve(self, *names: str) -> None:
        """Serve bindings of these names."""
        bindings = [Binding(name=name, version="v1", url="file:///a.wasm") for name in names]
        self.app.bindings = Bindings.of(bindings, Metrics(version="0"))

    def connect(self, protocol: type[BoundedProtocol]) -> tuple[Any, Transport]:
        """Open a connection."""
        made: Any = protocol(self._config, ServerState(), {}, asyncio.get_running_loop())
        transport = Transport()
        transport.pause_reading = transport.resume_reading = lambda: None  # type: ignore[method-assign]
        made.connection_made(transport)
        return made, transport


async def settle() -> None:
    """Let all that has begun come to its end: guests here need a few turns of the loop at most."""
    for _ in range(20):
        await asyncio.sleep(0)


def request(
    body: bytes = b"", *, line: bytes = b"POST /v1.0/bindings/echo HTTP/1.1", more: tuple[bytes, ...] = ()
) -> bytes:
    """A request with a body of a known length."""
    fields = (b"Host: a", b"Content-Length: %d" % len(body), *more)
    return b"\r\n".join((line, *fields, b"", body))


def asking(data: bytes) -> bytes:
    """The body of a binding request."""
    return b'{"operation":"execute","data":"%b"}' % data


def run(main: Any) -> Any:
    return asyncio.run(main)


def test_a_head_that_is_repeated_is_parsed_once() -> None:
    async def main() -> tuple[int, list[bytes]]:
        front = Front()
        protocol, transport = front.connect(front.repeating)
        protocol.parser = parser = CountingParser(protocol.parser)
        for word in (b"one", b"two", b"six"):
            protocol.data_received(request(asking(word)))
            await settle()
        return parser.fed, [written.rpartition(b"\r\n\r\n")[2] for written in transport.writes]

    assert run(main()) == (1, [b'"one"', b'"two"', b'"six"'])


def test_a_binding_that_is_gone_is_not_answered_from_memory() -> None:
    async def main() -> list[bytes]:
        front = Front()
        protocol, transport = front.connect(front.repeating)
        for names in (("echo",), ("other",), ("echo", "other")):
            front.serve(*names)
            protocol.data_received(request(asking(b"x")))
            await settle()
        return [written.partition(b"\r\n")[0] for written in transport.writes]

    ok = b"HTTP/1.1 200 OK"
    assert run(main()) == [ok, b"HTTP/1.1 500 Internal Server Error", ok]


def test_in_the_middle_of_a_head_the_same_bytes_are_no_request() -> None:
    async def main() -> bytes:
        front = Front()
        protocol, transport = front.connect(front.repeating)
        for read in (
            request(asking(b"x")),
            b"POST /v1.0/bindings/echo HTTP/1.1\r\nHost: a\r\nX",
            request(asking(b"x")),
        ):
            protocol.data_received(read)
            await settle()
        return transport.writes[1]

    assert run(main()).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_the_end_of_a_body_is_no_part_of_the_head_behind_it() -> None:
    async def main() -> list[bytes]:
        front = Front()
        protocol, transport = front.connect(front.repeating)
        begin, end = request(b"{" + b"no JSON")[:-7], b"no JSON"  # answered at once, so the next is parsed in that read
        for read in (begin, end + request(asking(b"x")), end + request(asking(b"x"))):
            protocol.data_received(read)
            await settle()
        return [written.partition(b"\r\n")[0] for written in transport.writes]

    refused = b"HTTP/1.1 400 Bad Request"
    assert run(main()) == [refused, b"HTTP/1.1 200 OK", refused]


def test_connections_that_repeat_nothing_stop_looking() -> None:
    async def main() -> str:
        front = Front()
        protocol, _ = front.connect(front.repeating)
        for length in range(40):
            protocol.data_received(request(asking(b"x" * length)))
            await settle()
        return repr(protocol._repeats)

    assert run(main()) == "<Repeats unknown, 16 missed>"


def test_the_last_answers_end_their_connections() -> None:
    async def main() -> tuple[bool, bytes]:
        front = Front()
        protocol, transport = front.connect(front.repeating)
        for last in (False, True):
            front.repeating.last_answer = last
            protocol.data_received(request(asking(b"x")))
            await settle()
        return transport.closed, transport.writes[1]

    closed, written = run(main())
    assert closed
    assert b"\r\nconnection: close\r\n" in written


PLAIN = st.sampled_from((b"x", b"y", b"zz")).map(lambda data: request(asking(data)))
OTHERS = st.sampled_from(
    (
        request(asking(b"x"), more=(b"X-Other: 1",)),
        request(asking(b"x"), more=(b"traceparent: 00-%b-%b-01" % (b"a" * 32, b"b" * 16),)),
        request(asking(b"x"), more=(b"Connection: close",)),
        request(asking(b"x"), more=(b"Expect: 100-continue",)),
        request(asking(b"x"), more=(b"X-Long: " + b"x" * 3000,)),
        request(asking(b"x"), line=b"PUT /v1.0/bindings/other HTTP/1.1"),
        request(asking(b"x"), line=b"POST /v1.0/bindings/echo HTTP/1.0"),
        request(asking(b"x"), line=b"POST /v1.0/bindings/none HTTP/1.1"),
        request(b'{"operation":"execute","data":1,"metadata":{"args":"do=exit"}}'),
        request(b"{"),
        request(),
        b"GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1.0/bindings/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"POST /v1.0/bindings/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\r\n",
        b"\r",
        b"nonsense\r\n\r\n",
    )
)


@st.composite
def reads(draw: st.DrawFn) -> list[tuple[bytes, bool]]:
    """What a connection brings, read by read, and after which of them all is answered before the next comes."""
    out = []
    for sent in draw(st.lists(st.one_of(PLAIN, PLAIN, PLAIN, OTHERS), min_size=2, max_size=12)):
        cut = draw(st.one_of(st.just(0), st.just(0), st.integers(1, max(1, len(sent) - 1))))
        rest = b"" if draw(st.integers(0, 9)) == 0 else sent[cut:]  # sometimes it never comes
        out += [(part, draw(st.sampled_from((True, True, False)))) for part in (sent[:cut], rest) if part]
    if draw(st.booleans()) and len(out) > 1:
        at = draw(st.integers(0, len(out) - 2))
        out[at : at + 2] = [(out[at][0] + out[at + 1][0], out[at + 1][1])]
    return out


@given(reads())
def test_all_is_answered_as_if_every_head_was_parsed(steps: list[tuple[bytes, bool]]) -> None:
    async def main() -> list[tuple[bytes, bool]]:
        front = Front()
        sides = [front.connect(front.repeating), front.connect(front.parsing)]
        for data, settles in [*steps, (b"", True)]:
            for protocol, transport in sides:
                if data and not transport.closed:
                    protocol.data_received(data)
            if settles:
                await settle()
        await settle()
        return [(_traces.sub(b"", b"".join(transport.writes)), transport.closed) for _, transport in sides]

    repeated, parsed = run(main())
    assert repeated == parsed

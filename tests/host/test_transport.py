"""Transports of httpx between guests and the network, driven as a host interface drives them: what they are given,
and what they answer.

tests/host/test_outbound.py runs through a transport that only passes on, too: what holds there without one holds here.
"""

import gzip
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2 as httpx
import pytest

from hostfuncs.outbound import Options, OutboundLimits, Policy
from hostfuncs.outbound.transport import BETWEEN_BYTES_TIMEOUT, FIRST_BYTE_TIMEOUT, RULE, TRAILERS, PolicyTransport
from tests.host.outbound_client import fetch, invocation, read_all, request
from tests.host.outbound_through import ANY, Passing, answered, through
from tests.origins import Origin


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def test_a_handler_sees_the_request_and_the_guest_its_response() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(418, headers=[("X-A", "1"), ("x-a", "2")], content=request.content.upper())

    got = answered(
        handler,
        "https://A.test:444/p%20q?x=1",
        "PROPfind",
        headers=[(b"X-One", b"1"), (b"x-two", b"\xff")],
        content=b"text",
    )
    (request,) = seen
    assert (request.method, str(request.url)) == ("PROPfind", "https://a.test:444/p%20q?x=1")
    assert request.headers.raw[:3] == [(b"Host", b"a.test:444"), (b"X-One", b"1"), (b"x-two", b"\xff")]
    assert (got.status, got.get("x-a"), got.body) == (418, [b"1", b"2"], b"TEXT")
    assert [(record.rule, record.outcome) for record in got.usage] == [("*", "ok")]


def test_timeouts_and_the_rule_travel_in_extensions() -> None:
    seen: list[dict[str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(dict(request.extensions))
        return httpx.Response(200)

    options = Options(
        connect_timeout_ns=2_000_000_000, first_byte_timeout_ns=3_000_000_000, between_bytes_timeout_ns=10**9
    )
    answered(handler, options=options, policy=Policy.parse(["http://*.test"]), content=b"", method="POST")
    trailers = seen[0].pop(TRAILERS)
    assert trailers() == ()
    assert seen[0] == {
        "timeout": {"connect": 2.0, "read": 3.0, "write": 1.0, "pool": 2.0},
        FIRST_BYTE_TIMEOUT: 3.0,
        BETWEEN_BYTES_TIMEOUT: 1.0,
        RULE: "http://*.test",
    }


def test_trailers_go_both_ways(origin: Origin) -> None:
    sent: list[Any] = []

    class Reading(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await request.aread()
            sent.append(request.extensions[TRAILERS]())
            return httpx.Response(200, content=b"x", extensions={TRAILERS: lambda: [(b"x-sum", b"1")]})

    with through(Reading()) as outbound:
        got = fetch(outbound, "http://a.test/", "POST", content=b"body", trailers=[(b"x-t", b"v")], policy=ANY)
    assert (sent, got.trailers) == ([((b"x-t", b"v"),)], ((b"x-sum", b"1"),))


def test_the_inner_transport_says_which_rule_matched(origin: Origin) -> None:
    made: list[Passing] = []

    def make(inner: httpx.AsyncBaseTransport) -> Passing:
        assert isinstance(inner, PolicyTransport)
        made.append(Passing(inner))
        return made[0]

    with through(make) as outbound:
        assert fetch(outbound, origin.url("/echo"), "POST", content=b"x").body == b"x"
    assert made[0].responses[0].extensions[RULE] == "*://127.0.0.1:*"


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_no_body_where_http_has_none(method: str) -> None:
    got = answered(lambda _: httpx.Response(200 if method == "HEAD" else 204, content=b"body"), method=method)
    assert got.body == b""


def test_bodies_stream_both_ways_at_once() -> None:
    class Echo(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            return httpx.Response(200, content=aiter(request.stream))

    with through(Echo()) as outbound, invocation(outbound, ANY) as exchanges:
        body = exchanges.request_body()
        exchange = exchanges.start(request("http://a.test/", "POST"), body=body)
        for piece in (b"one", b"two"):
            body.write(piece)
            exchanges.wait(exchange.body.ready)
            assert exchange.body.read(10) == piece
        body.finish()
        assert read_all(exchanges, exchange) == b""


@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_a_response_that_a_transport_has_read_is_whole(coding: str) -> None:
    """`aread` decodes, and whoever calls it keeps the content: httpx.Response, "Response.content"."""
    content = b"read already" * 100
    sent = gzip.compress(content) if coding == "gzip" else content

    class Reading(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            async def pieces() -> AsyncIterator[bytes]:
                yield sent

            headers = {"content-encoding": coding, "content-length": str(len(sent)), "x-a": "1"}
            response = httpx.Response(200, headers=headers, content=pieces())
            await response.aread()
            return response

    with through(Reading()) as outbound:
        got = fetch(outbound, "http://a.test/", policy=ANY)
        assert (got.body, got.get("x-a"), got.get("content-encoding"), got.error) == (content, [b"1"], [], None)


def test_a_guest_that_does_not_read_holds_the_transport_back() -> None:
    given = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1000
            yield bytes(1000)

    limits = OutboundLimits(buffer_bytes=10_000)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=endless()))
    with through(transport) as outbound, invocation(outbound, ANY, limits) as exchanges:
        exchange = exchanges.start(request("http://a.test/"))
        exchanges.wait(lambda: exchange.body.held >= 10_000)
        for _ in range(100):
            exchanges.turn()
        assert given <= 12_000

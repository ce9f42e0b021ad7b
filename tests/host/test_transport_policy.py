"""Limits and policy hold for a transport of httpx as they hold for guests."""

import asyncio
import time
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from hostfuncs.account import Account
from hostfuncs.ending import HostMemoryExceeded
from hostfuncs.outbound import Exchanges, Options, OutboundError, OutboundLimits, Policy
from hostfuncs.outbound.errors import ErrorCode
from hostfuncs.outbound.httpx_adapter import HttpxAdapter
from tests.host.outbound_client import LOOPBACK, fetch, invocation, read_all, request
from tests.host.outbound_through import ANY, Passing, answered, through
from tests.origins import Origin, pattern


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def test_limits_of_requests_and_of_those_in_flight() -> None:
    flying = most = 0
    release: list[asyncio.Future[None]] = []

    async def handler(_: httpx.Request) -> httpx.Response:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        if flying == 2:
            for waiter in release:
                waiter.set_result(None)
            release.clear()
        else:
            release.append(asyncio.get_running_loop().create_future())
            await release[-1]
        flying -= 1
        return httpx.Response(200)

    limits = OutboundLimits(requests=4, concurrency=2)
    with through(httpx.MockTransport(handler)) as outbound, invocation(outbound, ANY, limits) as exchanges:
        started = [exchanges.start(request("http://a.test/")) for _ in range(4)]
        exchanges.wait(lambda: all(exchange.body.ended for exchange in started))
        assert most == 2
        with pytest.raises(OutboundError, match="HTTP-request-denied"):
            exchanges.start(request("http://a.test/"))


def test_what_the_policy_refuses_does_not_reach_a_transport() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise AssertionError

    for url in ("http://other.test/", "http://127.0.0.1/"):
        got = answered(handler, url, policy=Policy.parse(["http://a.test", "https://127.0.0.1"]))
        assert got.error == ErrorCode("HTTP-request-denied")
    got = answered(handler, "http://169.254.169.254/", policy=ANY)
    assert got.error == ErrorCode("destination-IP-prohibited")


@pytest.mark.parametrize(
    ("path", "target", "code", "denied"),
    [
        ("http://localhost:{port}/", None, "HTTP-request-denied", "host"),
        ("http://127.0.0.1:{port}@evil.test/", None, "HTTP-request-denied", "host"),
        ("ftp://127.0.0.1:{port}/", None, "HTTP-protocol-error", "scheme"),
        ("http://127.0.0.1:{port}/", b"/\r\nHost: a", "HTTP-request-URI-invalid", ""),
    ],
)
def test_what_a_transport_sends_is_checked_like_a_guests_request(
    origin: Origin, path: str, target: bytes | None, code: str, denied: str
) -> None:
    def elsewhere(_: httpx.Request) -> httpx.Request:
        extensions = {} if target is None else {"target": target}
        return httpx.Request("GET", path.format(port=origin.port), extensions=extensions)

    before = origin.connections
    with through(lambda inner: Passing(inner, elsewhere)) as outbound:
        got = fetch(outbound, origin.url("/echo"), policy=Policy.parse([origin.url("").rstrip("/")]))
    assert got.error == ErrorCode(code)
    assert [record.denied for record in got.usage] == [denied]
    assert origin.connections == before


def test_a_transport_sends_more_than_one_request_for_one_of_the_guests(origin: Origin) -> None:
    class Twice(Passing):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            async with httpx.AsyncClient(transport=self.inner) as client:
                token = await client.post(origin.url("/echo"), content=b"token")
            request.headers["authorization"] = token.text
            return await super().handle_async_request(request)

    with through(Twice) as outbound:
        got = fetch(outbound, origin.url("/headers"), limits=OutboundLimits(requests=1, concurrency=1))
        assert b"authorization: token" in got.body.lower().splitlines()
        assert [record.outcome for record in got.usage] == ["ok"]
        assert outbound.connections() == (0, 1)


def test_failures_of_the_inner_transport_are_those_of_httpx(origin: Origin) -> None:
    caught: list[Exception] = []

    class Catching(Passing):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            try:
                return await super().handle_async_request(request)
            except httpx.TransportError as error:
                caught.append(error)
                raise

    with through(Catching) as outbound:
        assert fetch(outbound, origin.url("/close-silently"), "POST").error == ErrorCode("connection-terminated")
        options = Options(first_byte_timeout_ns=1_000_000)
        assert fetch(outbound, origin.url("/hold"), options=options).error == ErrorCode("connection-read-timeout")
    assert [type(error) for error in caught[:2]] == [httpx.ReadError, httpx.ReadTimeout]
    assert [getattr(error.__cause__, "code", None) for error in caught[:1]] == [ErrorCode("connection-terminated")]


def test_the_inner_transport_serves_nobody_between_runs(origin: Origin) -> None:
    inners: list[httpx.AsyncBaseTransport] = []

    def make(inner: httpx.AsyncBaseTransport) -> Passing:
        inners.append(inner)
        return Passing(inner)

    async def late() -> None:
        with pytest.raises(RuntimeError, match="only while a guest makes one"):
            await inners[0].handle_async_request(httpx.Request("GET", origin.url("/echo")))

    with through(make) as outbound:
        assert fetch(outbound, origin.url("/echo")).status == 200
        asyncio.run(late())
        with invocation(outbound) as exchanges:
            assert isinstance(exchanges, Exchanges)
            asyncio.run(late())


def test_a_response_of_the_inner_transport_that_is_given_up_is_closed_with_the_run(origin: Origin) -> None:
    class Leaving(Passing):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await super().handle_async_request(request)
            return httpx.Response(200, content=b"other")

    with through(Leaving) as outbound:
        assert fetch(outbound, origin.url("/bytes/1048576")).body == b"other"
        assert outbound.connections() == (0, 0)
        assert fetch(outbound, origin.url("/bytes/1048576")).body == b"other"


@pytest.mark.parametrize("made", [None, "text", object()])
def test_a_function_that_makes_no_transport(made: object) -> None:
    with pytest.raises(TypeError, match=r"not an httpx2\.AsyncBaseTransport"):
        HttpxAdapter(lambda _: made, print)  # type: ignore[arg-type, return-value]
    if made is not None:
        with pytest.raises(TypeError, match="give an httpx2"):
            HttpxAdapter(made, print)  # type: ignore[arg-type]


def test_large_bodies_pass_through(origin: Origin) -> None:
    with through(Passing) as outbound:
        content = pattern(1 << 20)
        assert fetch(outbound, origin.url("/echo"), "POST", content=content, policy=LOOPBACK).body == content


def test_a_body_that_a_transport_holds_whole_does_not_count_as_the_guests() -> None:
    """A mock has all of it at once. The guest takes it by pieces, and the account has room for those."""
    content = pattern(8 << 20)
    account = Account(2 << 20)
    with through(httpx.MockTransport(lambda _: httpx.Response(200, content=content))) as outbound:
        through_it = HttpxAdapter(outbound.transport, print)
        exchanges = through_it.begin(
            outbound, LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20 * 10**9, account=account
        )
        exchange = exchanges.start(request("http://127.0.0.1/"))
        assert read_all(exchanges, exchange) == content
        exchanges.close()


def test_what_a_guest_does_not_read_ends_its_run_through_a_transport_too(origin: Origin) -> None:
    account = Account(2 << 20)
    with through(Passing) as outbound:
        through_it = HttpxAdapter(outbound.transport, print)
        exchanges = through_it.begin(
            outbound, LOOPBACK, OutboundLimits(), time.monotonic_ns() + 20 * 10**9, account=account
        )
        started = [exchanges.start(request(origin.url("/bytes/1000000"))) for _ in range(40)]
        with pytest.raises(HostMemoryExceeded):
            exchanges.wait(lambda: all(exchange.done() for exchange in started))
        exchanges.close()
        assert fetch(outbound, origin.url("/bytes/5")).body == pattern(5)

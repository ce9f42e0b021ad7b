"""What becomes of a guest's request where a transport of httpx fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2 as httpx
import pytest

from hostfuncs.outbound import Options, OutboundError, OutboundLimits, httpx_adapter
from hostfuncs.outbound.errors import ErrorCode
from tests.host.outbound_client import fetch, invocation, read_all, request
from tests.host.outbound_through import ANY, answered, through


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (httpx.ConnectTimeout("x"), "connection-timeout"),
        (httpx.ReadTimeout("x"), "connection-read-timeout"),
        (httpx.WriteTimeout("x"), "connection-write-timeout"),
        (httpx.PoolTimeout("x"), "connection-limit-reached"),
        (httpx.ConnectError("x"), "destination-unavailable"),
        (httpx.ReadError("x"), "connection-terminated"),
        (httpx.RemoteProtocolError("x"), "HTTP-protocol-error"),
        (httpx.UnsupportedProtocol("x"), "HTTP-protocol-error"),
        (httpx.ProxyError("x"), "destination-unavailable"),
        (httpx.DecodingError("x"), "HTTP-response-content-coding"),
        (httpx.TooManyRedirects("x"), "loop-detected"),
        (httpx.InvalidURL("x"), "HTTP-request-URI-invalid"),
        (OutboundError(ErrorCode("DNS-timeout")), "DNS-timeout"),
    ],
)
def test_failures_of_httpx_have_their_codes(raised: Exception, code: str) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise raised

    got = answered(handler)
    assert got.error == ErrorCode(code)
    assert [record.outcome for record in got.usage] == [code]


@pytest.mark.parametrize(
    "raised", [ZeroDivisionError, SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit]
)
def test_whatever_a_transport_raises_ends_no_more_than_the_request(
    raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx_adapter, "_REPORT_EVERY_NS", 3600 * 10**9)
    fails = True

    def handler(_: httpx.Request) -> httpx.Response:
        if fails:
            raise raised
        return httpx.Response(200, content=b"fine")

    with through(httpx.MockTransport(handler)) as outbound, invocation(outbound, ANY) as exchanges:
        for _ in range(3):
            exchange = exchanges.start(request("http://a.test/"))
            exchanges.wait(exchange.done)
            with pytest.raises(OutboundError, match="internal-error"):
                exchange.result()
        fails = False
        exchange = exchanges.start(request("http://a.test/"))
        assert read_all(exchanges, exchange) == b"fine"
        assert [type(failed) for failed in outbound.reported] == [raised]  # one of three


async def _broken() -> AsyncIterator[bytes]:
    yield b"some"
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx.Response(101), "HTTP-upgrade-failed"),
        (httpx.Response(99), "internal-error"),
        (httpx.Response(600), "internal-error"),
        (httpx.Response(200, headers=[("x", "a\nb")]), "HTTP-protocol-error"),
        (httpx.Response(200, content=iter([b"synchronous"])), "internal-error"),
        (httpx.Response(200, headers=[("x", "a" * 70_000)]), "HTTP-response-header-section-size"),
        ("text", "internal-error"),
        (None, "internal-error"),
    ],
)
def test_a_response_that_no_guest_can_be_given(response: Any, code: str) -> None:
    class Answering(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return response

    with through(Answering()) as outbound:
        got = fetch(outbound, "http://a.test/", policy=ANY)
    assert got.error is not None
    assert got.error.name == code


def test_a_body_that_breaks_off_and_one_that_is_too_long() -> None:
    got = answered(lambda _: httpx.Response(200, content=_broken()))
    assert got.error == ErrorCode("internal-error", "ZeroDivisionError")
    got = answered(lambda _: httpx.Response(200, content=bytes(101)), limits=OutboundLimits(body_bytes=100))
    assert got.error == ErrorCode("HTTP-response-body-size", 101)


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _stubborn() -> None:
    """Heeds no cancelling, the first time."""
    try:
        await _forever()
    except asyncio.CancelledError:
        await _forever()


@pytest.mark.parametrize("hang", [_forever, _stubborn])
def test_a_transport_that_hangs_is_timed_out(hang: Callable[[], Awaitable[None]]) -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        await hang()
        return httpx.Response(200)

    with through(httpx.MockTransport(handler)) as outbound:
        options = Options(connect_timeout_ns=1_000_000, first_byte_timeout_ns=1_000_000)
        got = fetch(outbound, "http://a.test/", policy=ANY, options=options)
        assert got.error == ErrorCode("connection-read-timeout")
        # What went on is gone with its loop, and the next invocation has one of its own.
        outbound.transport = httpx.MockTransport(lambda _: httpx.Response(200, content=b"fine"))
        assert fetch(outbound, "http://a.test/", policy=ANY).body == b"fine"


def test_a_response_that_never_closes_fails_the_request() -> None:
    class Open(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"data"

        async def aclose(self) -> None:
            await _forever()

    got = answered(lambda _: httpx.Response(200, stream=Open()))
    assert got.error == ErrorCode("internal-error", "RuntimeError")


def test_a_guest_that_drops_a_request_cancels_its_transport() -> None:
    cancelled: list[bool] = []

    async def handler(_: httpx.Request) -> httpx.Response:
        try:
            await _forever()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        raise AssertionError

    with through(httpx.MockTransport(handler)) as outbound, invocation(outbound, ANY) as exchanges:
        exchange = exchanges.start(request("http://a.test/"))
        exchanges.turn()
        exchange.close()
        exchanges.turn()
        assert cancelled == [True]
        assert [record.outcome for record in exchanges.close()] == ["dropped"]
        assert outbound.reported == []

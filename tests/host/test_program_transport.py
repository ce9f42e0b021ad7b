"""Guests of every kind whose requests a transport of httpx answers, run by `hostfuncs`."""

import logging
import threading
from pathlib import Path

import httpx2 as httpx
import pytest

import hostfuncs
from hostfuncs import HttpRequest, Policy, Program
from tests.guests import path as guest
from tests.guests.cache import PROGRAMS
from tests.host.legacy_guests import c_client, go_fetch

pytestmark = pytest.mark.build

ANY = Policy.parse(["*"])


def greeting(request: httpx.Request) -> httpx.Response:
    assert request.url.path == "/greeting"
    if request.method == "POST":
        return httpx.Response(201, text=request.content.decode().upper())
    return httpx.Response(200, text=f"hello from {request.url.host}")


MOCK = httpx.MockTransport(greeting)


def test_a_handler_answers_a_go_guest() -> None:
    with Program(go_fetch(), policy=ANY) as program:
        result = program.run(args=["http://one.test/greeting", "http://two.test/greeting"], transport=MOCK)
        assert result.ok, result
        assert result.stdout.endswith(b"hello from two.test")
        posted = program.run(args=["-post", "http://one.test/greeting"], stdin=b"text", transport=MOCK)
        assert posted.stdout.endswith(b"TEXT"), posted
    assert [record.rule for record in result.outbound] == ["*", "*"]


def test_a_handler_answers_a_python_guest() -> None:
    from tests.guests.component.build import python_component

    asked = b'[{"authority": "py.test", "scheme": "Http", "path": "/greeting"}]'
    client = python_component("client", "client")
    result = hostfuncs.run(client, args=["requests"], stdin=asked, policy=ANY, cache=PROGRAMS, transport=MOCK)
    assert result.ok, result
    assert [(record.rule, record.outcome) for record in result.outbound] == [("*", "ok")]
    assert b'"status": 200' in result.stdout


def test_a_handler_answers_a_javascript_guest() -> None:
    from tests.guests.component.build import javascript_component

    with Program(javascript_component("client", "client-with-files"), policy=ANY, cache=PROGRAMS) as program:
        got = program.run(args=["get", "http://js.test/greeting"], transport=MOCK)
        assert got.stdout == b"200 text/plain; charset=utf-8 hello from js.test", got
        posted = program.run(args=["post", "http://js.test/greeting", "text"], transport=MOCK)
        assert b"TEXT" in posted.stdout, posted


def test_a_handler_answers_a_handler_of_requests() -> None:
    from tests.guests.component.build import python_component

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=bytes(int(request.url.query)))

    with Program(python_component("proxy", "proxy"), policy=ANY, cache=PROGRAMS) as program:
        request = HttpRequest(method="POST", url="http://a.test/stream/gateway/up.test", body=b"3\n11\n")
        result = program.run(request=request, transport=httpx.MockTransport(handler))
    assert result.response is not None, result
    assert (result.response.status, result.response.body) == (200, b"3\n11\n")


def test_the_policy_comes_before_a_transport() -> None:
    result = hostfuncs.run(c_client(), args=["http://one.test/greeting"], transport=MOCK)
    assert [(record.outcome, record.denied) for record in result.outbound] == [("HTTP-request-denied", "host")]


def test_what_a_handler_raises_is_logged_and_ends_the_request(caplog: pytest.LogCaptureFixture) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError("by nought")

    with caplog.at_level(logging.ERROR):
        result = hostfuncs.run(
            c_client(), args=["http://one.test/"], policy=ANY, transport=httpx.MockTransport(handler)
        )
    assert [record.outcome for record in result.outbound] == ["internal-error"]
    (record,) = caplog.records
    assert (record.name, record.exc_info and record.exc_info[0]) == ("hostfuncs.transport", ZeroDivisionError)


def test_a_run_without_a_transport_follows_one_with_it(tmp_path: Path) -> None:
    with Program(c_client(), policy=ANY) as program:
        assert b"hello" in program.run(args=["http://one.test/greeting"], transport=MOCK).stdout
        result = program.run(args=["http://one.invalid/greeting"])
        assert [record.outcome for record in result.outbound] == ["DNS-error"]


def test_threads_have_transports_of_their_own() -> None:
    both = threading.Barrier(2, timeout=60)
    results: dict[str, bytes] = {}

    def ask(name: str, program: Program) -> None:
        def handler(_: httpx.Request) -> httpx.Response:
            both.wait()
            return httpx.Response(200, text=f"answer for {name}")

        results[name] = program.run(args=["http://x.test/"], transport=httpx.MockTransport(handler)).stdout

    with Program(c_client(), policy=ANY) as program:
        threads = [threading.Thread(target=ask, args=(name, program)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert b"answer for a" in results["a"]
    assert b"answer for b" in results["b"]


def test_a_transport_for_a_guest_that_makes_no_requests() -> None:
    assert hostfuncs.run(guest("upper"), stdin=b"x", transport=MOCK).stdout == b"X"
    with pytest.raises(TypeError, match=r"transport is a str; give an httpx2\.AsyncBaseTransport"):
        hostfuncs.run(guest("upper"), transport="http://proxy")  # type: ignore[arg-type]

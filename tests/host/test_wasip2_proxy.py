"""wasi:http/proxy components: called with a request, they answer with a response."""

import json
from collections.abc import Iterator

import pytest

from sandboxd.limits import Limits
from sandboxd.wire.messages import HttpRequest
from tests.guests.component.build import python_component
from tests.host.components import Components, Loaded

pytestmark = pytest.mark.build


@pytest.fixture(scope="module")
def proxy(components: Components) -> Iterator[Loaded]:
    with components.load(python_component("proxy", "proxy")) as guest:
        yield guest


def get(path: str, method: str = "GET", headers: tuple[tuple[bytes, bytes], ...] = ()) -> HttpRequest:
    return HttpRequest(method=method, scheme="https", authority="api.test:8443", path=path, headers=headers)


def test_the_whole_request_arrives_and_the_whole_response_leaves(proxy: Loaded) -> None:
    headers = ((b"Host", b"api.test:8443"), (b"X-One", b"1"), (b"x-one", b"2"), (b"Connection", b"close"))
    result = proxy.run(http=get("/describe?a=b", "PUT", headers), stdin="café".encode())
    assert result.outcome == "completed"
    assert result.http is not None
    assert result.http.status == 201
    assert result.http.headers == (
        (b"content-type", b"application/json"),
        (b"x-two", b"a"),
        (b"x-two", b"b"),
    )
    assert json.loads(result.stdout) == {
        "method": "PUT",
        "path": "/describe?a=b",
        "scheme": "Scheme_Https",
        "authority": "api.test:8443",
        "headers": [["x-one", "1"], ["x-one", "2"]],
        "body": "café",
    }
    # What a handler prints is not the reply.
    assert result.stderr == b"called with /describe?a=b\n"


def test_methods_without_a_name_of_their_own(proxy: Loaded) -> None:
    assert json.loads(proxy.run(http=get("/describe", "PURGE")).stdout)["method"] == "PURGE"


def test_data_alone_is_a_post_of_it(proxy: Loaded) -> None:
    result = proxy.run(stdin=b"data")
    assert (result.outcome, result.stdout) == ("completed", b"hello from a proxy")
    assert result.stderr == b"called with /\n"


@pytest.mark.parametrize("size", [0, 1, 65536, 1 << 20])
def test_bodies_go_through(proxy: Loaded, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    result = proxy.run(http=get("/echo", "POST"), stdin=data)
    assert result.stdout == data


def test_a_response_without_a_body(proxy: Loaded) -> None:
    result = proxy.run(http=get("/empty"))
    assert (result.outcome, result.stdout, result.http and result.http.status) == ("completed", b"", 200)


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/error", "the guest answered with the error internal-error (not today)"),
        ("/silent", "the guest never called response-outparam.set"),
        ("/short", "incomplete response: HTTP-response-body-size 5"),
        ("/long", "incomplete response: HTTP-response-body-size 10"),
        ("/dropped", "incomplete response: the guest dropped its response's body without finishing it"),
        ("/status/101", "the guest answered with status 101, which ends no request"),
        ("/status/777", "the guest answered with status 777, which ends no request"),
        ("/trap", "wasm error: unreachable"),
    ],
)
def test_answers_that_are_none(proxy: Loaded, path: str, detail: str) -> None:
    result = proxy.run(http=get(path))
    assert (result.outcome, result.detail, result.http) == ("trapped", detail, None)


def test_what_the_guest_was_told_of_a_wrong_length(proxy: Loaded) -> None:
    assert b"errors [['ErrorCode_HttpResponseBodySize', 5]]" in proxy.run(http=get("/short")).stderr
    told = proxy.run(http=get("/long")).stderr
    assert b"errors ['StreamError_LastOperationFailed', ['ErrorCode_HttpResponseBodySize', 10]]" in told


def test_status_codes(proxy: Loaded) -> None:
    result = proxy.run(http=get("/status/503"))
    assert result.outcome == "completed"
    assert result.http is not None
    assert result.http.status == 503


def test_the_response_has_the_output_limit(components: Components) -> None:
    with components.load(python_component("proxy", "proxy"), limits=Limits(stdout_bytes=1000)) as guest:
        assert guest.run(http=get("/echo", "POST"), stdin=b"x" * 1000).outcome == "completed"
        assert guest.run(http=get("/echo", "POST"), stdin=b"x" * 1001).outcome == "output_exceeded"

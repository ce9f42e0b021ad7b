"""Outbound HTTP of components, by a guest that componentize-py built.

The cases are those of wasmtime's own `p2_http_outbound_request_*` test programs, and what origins do wrong beyond them.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from sandboxd.limits import Limits, OutboundSettings
from sandboxd.worker.guests import GuestError
from tests.guests.component.build import python_component
from tests.host.components import ANY_HOST, Components, Loaded, released_when
from tests.origins import Origin, Silent, pattern, refused_port

pytestmark = pytest.mark.build

MIB = 1 << 20


@pytest.fixture(scope="module")
def client(components: Components) -> Iterator[Loaded]:
    with components.load(python_component("client", "client"), outbound=ANY_HOST) as guest:
        yield guest


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


def ask(client: Loaded, origin: Origin | None, *specs: dict[str, Any], **kwargs: Any) -> list[dict[str, Any]]:
    """Return the results of these requests; `authority` and `path` have defaults."""
    base = {"authority": origin.authority if origin else "127.0.0.1:1", "path": "/echo"}
    answers: list[dict[str, Any]] = client.json("requests", stdin=[base | spec for spec in specs], **kwargs)
    return answers


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# wasmtime's tests, restated -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE", "get"])
def test_methods_are_echoed(client: Loaded, origin: Origin, method: str) -> None:
    (answer,) = ask(client, origin, {"method": method, "path": "/echo?some=arg&goes=here"})
    assert answer["status"] == 200
    assert ["x-method", method] in answer["headers"]
    assert ["x-target", "/echo?some=arg&goes=here"] in answer["headers"]
    assert answer["immutable"] == "Immutable"


def test_head_has_no_body(client: Loaded, origin: Origin) -> None:
    (answer,) = ask(client, origin, {"method": "HEAD", "path": "/head-only"})
    assert (answer["status"], answer["size"]) == (200, 0)
    assert ["content-length", "7"] in answer["headers"]


@pytest.mark.parametrize(
    ("size", "how"),
    [
        *((size, how) for size in (0, 1, 4096, 65536, 70_000) for how in ("before", "after", "blocking")),
        # Not "before": who writes more than the host buffers before the request is sent waits for ever.
        *((MIB, how) for how in ("after", "blocking")),
    ],
)
def test_posted_bodies_arrive_whole(client: Loaded, origin: Origin, size: int, how: str) -> None:
    body = {"size": size, "before": how == "before", "blocking": how == "blocking"}
    (answer,) = ask(client, origin, {"method": "POST", "body": body})
    assert (answer["status"], answer["size"], answer["sha256"]) == (200, size, sha256(pattern(size)))
    assert origin.seen[0].body == pattern(size)


def test_a_large_post_streams_while_it_is_written(client: Loaded, origin: Origin) -> None:
    (answer,) = ask(client, origin, {"method": "POST", "path": "/echo", "body": {"size": 3 * MIB}})
    assert (answer["size"], answer["sha256"]) == (3 * MIB, sha256(pattern(3 * MIB)))
    assert origin.seen[0].get("transfer-encoding") == "chunked"


@pytest.mark.parametrize(
    ("announced", "written", "expected"),
    [
        ("11", 11, {"status": 200}),
        # "writing less": finish says so, and the request fails with the same code
        ("11", 5, {"finish": ["HttpRequestBodySize", 5], "error": ["HttpRequestBodySize", 5]}),
        # "writing more": the write fails
        (
            "11",
            20,
            {
                "write": ["LastOperationFailed", ["HttpRequestBodySize", 20]],
                "finish": ["HttpRequestBodySize", 20],
                "error": ["HttpRequestBodySize", 20],
            },
        ),
        ("nonsense", 5, {"body": "refused"}),
        ("-1", 5, {"body": "refused"}),
    ],
)
def test_content_length_is_kept_to(
    client: Loaded, origin: Origin, announced: str, written: int, expected: dict[str, Any]
) -> None:
    spec = {"method": "POST", "headers": [["Content-Length", announced]], "body": {"size": written}}
    (answer,) = ask(client, origin, spec)
    assert {key: answer.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([["Bad Name", "x"]], {"headers": "InvalidSyntax"}),
        ([["", "x"]], {"headers": "InvalidSyntax"}),
        ([["x-é", "x"]], {"headers": "InvalidSyntax"}),
        ([["x-ok", "a\r\nb: c"]], {"headers": "InvalidSyntax"}),
        ([["x-ok", "a\0"]], {"headers": "InvalidSyntax"}),
        ([["Host", "elsewhere"]], {"headers": "Forbidden"}),
        ([["Connection", "close"]], {"headers": "Forbidden"}),
        ([["Transfer-Encoding", "chunked"]], {"headers": "Forbidden"}),
        ([["Keep-Alive", "1"], ["x", "y"]], {"headers": "Forbidden"}),
    ],
)
def test_invalid_headers(client: Loaded, headers: list[list[str]], expected: dict[str, Any]) -> None:
    assert ask(client, None, {"headers": headers}) == [expected]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"method": "bad\nmethod"}, {"set": "method"}),
        ({"method": ""}, {"set": "method"}),
        ({"scheme": "WS"}, {"refused": ["HttpProtocolError", None]}),
        ({"scheme": "not a scheme"}, {"set": "scheme"}),
        ({"authority": "localhost:99999"}, {"set": "authority"}),
        ({"authority": "bad host"}, {"set": "authority"}),
        ({"authority": ""}, {"set": "authority"}),
        ({"authority": "user:secret@127.0.0.1"}, {"set": "authority"}),
        ({"authority": None}, {"refused": ["HttpRequestUriInvalid", None]}),
        ({"path": None}, {"refused": ["HttpRequestUriInvalid", None]}),
        ({"path": "/with space"}, {"set": "path_with_query"}),
        ({"path": "/with\r\nx: y"}, {"set": "path_with_query"}),
        ({"path": "/fragment#x"}, {"set": "path_with_query"}),
        ({"method": "CONNECT"}, {"refused": ["HttpRequestDenied", None]}),
    ],
)
def test_what_cannot_be_asked_for(client: Loaded, spec: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ask(client, None, spec) == [expected]


def test_an_unknown_name_is_a_dns_error(client: Loaded) -> None:
    (answer,) = ask(client, None, {"authority": "some.invalid:3000"})
    assert answer["error"][0] in ("DnsError", "DnsTimeout")


def test_nobody_listens(client: Loaded) -> None:
    with refused_port() as port:
        (answer,) = ask(client, None, {"authority": f"127.0.0.1:{port}"})
    assert answer == {"error": ["ConnectionRefused", None]}


def test_a_first_byte_timeout_of_the_guest(client: Loaded) -> None:
    with Silent() as silent:
        (answer,) = ask(client, None, {"authority": silent.authority, "options": {"first": 50_000_000}})
    assert answer["error"][0] in ("ConnectionReadTimeout", "HttpResponseTimeout")


def test_a_between_bytes_timeout_of_the_guest(client: Loaded, origin: Origin) -> None:
    (answer,) = ask(client, origin, {"path": "/hold-body", "options": {"between": 50_000_000}})
    origin.release()
    assert answer["begin"] == "first"
    assert answer["read"][0] == "LastOperationFailed"
    assert answer["read"][1][0] in ("ConnectionReadTimeout", "HttpResponseTimeout")


def test_the_other_version_of_http(client: Loaded, origin: Origin) -> None:
    """ "invalid version": what is no HTTP at all."""
    (answer,) = ask(client, origin, {"path": "/garbage"})
    assert answer == {"error": ["HttpProtocolError", None]}


def test_fields_and_requests_behave_as_in_wasmtime(client: Loaded) -> None:
    assert client.json("fields") == [
        *(None, None, "InvalidSyntax", "InvalidSyntax", "InvalidSyntax"),
        *("Forbidden", "Forbidden", "Forbidden"),
        ["1", "2"],
        [],
        True,
        False,
        *(None, None),
        [["x-one", "3"], ["x-two", "a"], ["x-two", "b"]],
        *(None, None),
        [["x-one", "3"]],
        *("Forbidden", "InvalidSyntax"),
        *("Immutable", "Immutable", "Immutable"),
        None,
        [["x-one", "3"], ["a", "b"]],
        *(None, 5, 6, None),
        *("Method_Get", None, None, None),
        True,
        *(200, True, None, 404),
    ]


def test_blanks_around_a_value_are_no_part_of_it(client: Loaded, origin: Origin) -> None:
    """A token read from a file has a line's end of blanks; wasmtime sends it, and RFC 9110 section 5.5 cuts it off."""
    headers = [["authorization", "Bearer x \t"], ["x-tab", "\ta b\t"], ["x-blank", "  "]]
    trailers = [["x-sum", " 1\t"]]
    (answer,) = ask(client, origin, {"method": "POST", "headers": headers, "body": {"size": 5, "trailers": trailers}})
    assert answer["status"] == 200
    seen = origin.seen[0]
    assert (seen.get("authorization"), seen.get("x-tab"), seen.get("x-blank")) == ("Bearer x", "a b", "")
    assert [(name.lower(), value) for name, value in seen.trailers] == [(b"x-sum", b"1")]


# bodies and trailers --------------------------------------------------------------------------------------------------


def test_repeated_headers_are_all_there(client: Loaded, origin: Origin) -> None:
    (answer,) = ask(client, origin, {"path": "/repeated"})
    assert [value for name, value in answer["headers"] if name == "set-cookie"] == ["a=1", "b=2"]
    assert [value for name, value in answer["headers"] if name == "x-twice"] == ["one", "two"]


def test_hop_by_hop_headers_of_a_response_are_not_shown(client: Loaded, origin: Origin) -> None:
    (answer,) = ask(client, origin, {"path": "/chunked/10"})
    assert "transfer-encoding" not in [name for name, _ in answer["headers"]]


@pytest.mark.parametrize("path", ["bytes", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 65536, MIB])
def test_bodies_arrive_whole(client: Loaded, origin: Origin, path: str, size: int) -> None:
    (answer,) = ask(client, origin, {"path": f"/{path}/{size}"})
    assert (answer["size"], answer["sha256"]) == (size, sha256(pattern(size)))


@pytest.mark.parametrize("read", [0, 2, 1000])
def test_trailers_come_however_much_was_read(client: Loaded, origin: Origin, read: int) -> None:
    (answer,) = ask(client, origin, {"path": "/trailers", "read": read, "trailers": True})
    assert answer["trailers"] == [["x-checksum", "abc"], ["x-more", "def"]]


def test_no_trailers(client: Loaded, origin: Origin) -> None:
    (answer,) = ask(client, origin, {"path": "/bytes/500000", "read": 10, "trailers": True})
    assert answer["trailers"] is None


def test_trailers_are_sent(client: Loaded, origin: Origin) -> None:
    body = {"size": 10, "trailers": [["X-Sum", "1"], ["x-other", "2"]]}
    (answer,) = ask(client, origin, {"method": "POST", "body": body})
    assert answer["status"] == 200
    assert [(n.lower(), v) for n, v in origin.seen[0].trailers] == [(b"x-sum", b"1"), (b"x-other", b"2")]


def test_a_body_dropped_unfinished_is_not_taken_for_complete(client: Loaded, origin: Origin) -> None:
    (answer,) = ask(client, origin, {"method": "POST", "body": {"size": 10, "drop": True}})
    assert answer == {"error": ["HttpProtocolError", None]}
    assert not origin.seen or origin.seen[0].body == b""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/close-silently", {"error": "ConnectionTerminated"}),
        ("/short", {"status": 200, "begin": "0123456789", "read": "HttpResponseIncomplete"}),
        ("/big-head", {"error": "HttpResponseHeaderSectionSize"}),
        ("/many-headers", {"error": "HttpResponseHeaderSectionSize"}),
    ],
)
def test_what_origins_do_wrong_has_its_code(
    client: Loaded, origin: Origin, path: str, expected: dict[str, Any]
) -> None:
    (answer,) = ask(client, origin, {"path": path})
    found = {key: answer.get(key) for key in expected}
    if "error" in found:
        found["error"] = found["error"][0]
    if "read" in found:
        assert found["read"][0] == "LastOperationFailed"
        found["read"] = found["read"][1][0]
    assert found == expected


def test_a_response_that_is_not_wanted(client: Loaded, origin: Origin) -> None:
    """Dropped unread; the next request is not disturbed."""
    first, second, third = ask(
        client, origin, {"path": "/endless", "read": "no"}, {"path": "/endless", "read": 100_000}, {"path": "/bytes/5"}
    )
    assert (first["status"], second["status"]) == (200, 200)
    assert third["size"] == 5


# many at once, deadlines, policy, limits ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fanout", "gather"])
def test_eight_requests_are_under_way_at_once(client: Loaded, origin: Origin, how: str) -> None:
    """The origin answers nobody until all eight have asked: one after the other would never end."""
    with released_when(origin, 8):
        answer = client.json(how, origin.url("/hold"), "8")
    assert (answer["results"] if how == "fanout" else answer) == ["held"] * 8


def test_a_timer_wins_against_an_origin_that_says_nothing(client: Loaded) -> None:
    with Silent() as silent:
        assert client.json("race", f"http://{silent.authority}/") == [[1], False, False]


def test_a_guest_that_only_ever_asks_gets_its_answer(client: Loaded, origin: Origin) -> None:
    with released_when(origin, 2):
        answer = client.json("race", origin.url("/hold"), origin.url("/status/200"))
    assert answer == [[1], True, True]


def test_the_deadline_ends_a_guest_that_waits_for_an_origin(client: Loaded) -> None:
    with Silent() as silent:
        result = client.run(
            "requests", stdin=b'[{"authority": "%s", "path": "/"}]' % silent.authority.encode(), timeout_s=3
        )
    assert (result.outcome, result.detail) == ("deadline_exceeded", "module closed with context deadline exceeded")
    assert [record.outcome for record in result.outbound] == ["dropped"]


def test_every_request_is_accounted_for(client: Loaded, origin: Origin) -> None:
    spec = b'[{"authority": "%s", "path": "/bytes/5"}, {"authority": "x.test", "path": "/", "scheme": "ftp"}]'
    result = client.run("requests", stdin=spec % origin.authority.encode())
    assert [(record.rule, record.outcome, record.denied) for record in result.outbound] == [
        ("http://127.0.0.0/8:*", "ok", "") if result.outbound[0].rule.endswith("/8:*") else ("http://*:*", "ok", ""),
        ("", "HTTP-protocol-error", "scheme"),
    ]


def test_the_policy_holds_for_components(components: Components, origin: Origin) -> None:
    source = python_component("client", "client")
    with components.load(source, allowed_outbound_hosts=("https://example.test",)) as guest:
        assert ask(guest, origin, {}) == [{"refused": ["HttpRequestDenied", None]}]
    with components.load(source) as guest:
        # No list: loopback is not for guests.
        assert ask(guest, origin, {}) == [{"refused": ["DestinationIpProhibited", None]}]
    with components.load(source, outbound=OutboundSettings(default_allowed_hosts=())) as guest:
        assert ask(guest, origin, {}) == [{"refused": ["HttpRequestDenied", None]}]
    assert origin.connections == 0


def test_limits_hold_for_components(components: Components, origin: Origin) -> None:
    limits = Limits(outbound_requests=2, outbound_body_bytes=1000)
    with components.load(python_component("client", "client"), outbound=ANY_HOST, limits=limits) as guest:
        specs = [{"path": "/bytes/1001"}, {"method": "POST", "body": {"size": 1001}}, {}]
        first, second, third = ask(guest, origin, *specs)
    assert first["read"] == ["LastOperationFailed", ["HttpResponseBodySize", 1001]]
    assert second["write"] == ["LastOperationFailed", ["HttpRequestBodySize", 1001]]
    assert third == {"refused": ["HttpRequestDenied", None]}


def test_what_the_host_keeps_for_a_guest_is_bounded(client: Loaded) -> None:
    assert client.json("hoard", "100") == 100
    result = client.run("hoard", "1000")
    assert (result.outcome, result.limit) == ("memory_exceeded", "hostMemory")
    assert "the host would hold more than 64 MiB (hostMemory) for the guest" in result.detail
    # One body alone holds 1 MiB, for guests that write all of it before they send; all together half of hostMemory.
    written = client.json("unsent", "40")
    assert written[0] == MIB
    assert sum(written) == 32 * MIB


def test_the_strict_sandbox_has_no_http(components: Components) -> None:
    with pytest.raises(GuestError, match=r"^can not instantiate wasi-http with strict sandbox$"):
        components.load(python_component("client", "client"), strict_sandbox=True)

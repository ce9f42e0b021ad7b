"""Input and output as they are: the kinds of stdin and of replies, over HTTP and in large bodies."""

import base64
import json
from collections.abc import Iterator

import pytest

from sandboxd.front.answering import payload
from sandboxd.wire.streams import StdinKind, StdoutKind
from tests import guests
from tests.running import RunningServer, component, write_components

AWKWARD = 'a "quoted" <tag> & \\ \n\t\u2028 \u00e9 \U0001f418 \x00'


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("streams")
    url = f"file://{guests.path('echo')}"
    documents = [
        component("plain", url),
        component("text", url, stdin="text"),
        component("bytes", url, stdin="base64", stdout="base64"),
        component("untraced", f"file://{guests.path('env')}", traceparent="false"),
        component("traced", f"file://{guests.path('env')}"),
    ]
    with RunningServer(write_components(folder, documents), "--workers", "1") as server:
        yield server


@pytest.mark.parametrize("size", [1, 40_000], ids=["inline", "in a process of its own"])
def test_text_is_given_without_quotes_and_escapes(streams: RunningServer, size: int) -> None:
    sent = AWKWARD * size if size == 1 else AWKWARD * (size // 10)
    for binding, metadata in (("text", None), ("plain", {"stdin": "text"})):
        reply = streams.invoke(binding, sent, metadata)
        assert (reply.status_code, reply.content) == (200, sent.encode())


@pytest.mark.parametrize("size", [255, 300_000], ids=["inline", "in a process of its own"])
def test_bytes_go_in_and_come_out_by_base64(streams: RunningServer, size: int) -> None:
    sent = bytes(range(256)) * (size // 255)
    reply = streams.invoke("bytes", base64.b64encode(sent).decode())
    assert reply.status_code == 200
    assert base64.b64decode(reply.json(), validate=True) == sent
    # A reply can be the next request's data as it is.
    again = streams.invoke("bytes", reply.json(), {"stdout": "raw"})
    assert again.content == sent


def test_a_request_takes_precedence_over_its_component(streams: RunningServer) -> None:
    assert streams.invoke("text", {"a": 1}, {"stdin": "json"}).content == b'{"a":1}'
    assert streams.invoke("text", "say \u00e9", {"stdout": "json"}).json() == "say \u00e9"
    assert streams.invoke("plain", "/w==", {"stdin": "base64", "stdout": "json"}).json() == "\ufffd"


@pytest.mark.parametrize("pad", [0, 100_000], ids=["inline", "in a process of its own"])
@pytest.mark.parametrize(
    ("data", "kind", "told"),
    [
        ({"a": 1}, "text", "data must be a JSON string, because stdin is text; it is an object"),
        ([1], "text", "data must be a JSON string, because stdin is text; it is an array"),
        (12, "base64", "data must be a JSON string, because stdin is base64; it is a number"),
        (True, "text", "data must be a JSON string, because stdin is text; it is true"),
        ("a?b", "base64", "data must be a string in base64, because stdin is base64; it is not"),
        ("\u00e9", "base64", "data must be a string in base64, because stdin is base64; it is not"),
        ("x", "xml", "invalid request metadata: metadata stdin must be one of json, text, base64"),
    ],
)
def test_other_data_is_a_clear_400(streams: RunningServer, data: object, kind: str, told: str, pad: int) -> None:
    reply = streams.invoke("plain", data, {"stdin": kind, "pad": "x" * pad})
    assert (reply.status_code, reply.json()["message"]) == (400, told)


def test_an_unknown_kind_of_reply_is_refused_before_the_guest_runs(streams: RunningServer) -> None:
    reply = streams.invoke("plain", 1, {"stdout": "xml"})
    told = "invalid request metadata: metadata stdout must be one of raw, base64, json"
    assert (reply.status_code, reply.json()["message"]) == (400, told)


def test_no_data_is_an_empty_input(streams: RunningServer) -> None:
    assert streams.invoke("text").content == b""
    assert streams.invoke("bytes").json() == ""


def test_the_trace_context_can_be_turned_off(streams: RunningServer) -> None:
    def names(binding: str) -> set[bytes]:
        with streams.client() as client:
            trace = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=b", "baggage": "c=d"}
            reply = client.post(f"/v1.0/bindings/{binding}", json={"operation": "execute"}, headers=trace)
        assert reply.status_code == 200
        return {line.partition(b"=")[0] for line in reply.content.splitlines() if line}

    assert {b"TRACEPARENT", b"TRACESTATE", b"BAGGAGE"} <= names("traced")
    assert not {b"TRACEPARENT", b"TRACESTATE", b"BAGGAGE"} & names("untraced")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 192 * 1024 - 1, 192 * 1024 + 1, 400_000])
def test_replies_in_pieces_are_whole(size: int) -> None:
    stdout = ("\u00e9" * size).encode()[:size]
    assert base64.b64decode(json.loads(payload.reply_of(StdoutKind.BASE64, stdout)), validate=True) == stdout
    assert json.loads(payload.reply_of(StdoutKind.JSON, stdout)) == stdout.decode("utf-8", "replace")
    assert payload.reply_of(StdoutKind.RAW, stdout) == stdout


def test_text_of_other_protocols_may_be_any_json() -> None:
    assert payload.stdin_of(StdinKind.TEXT, b' "a\\u003cb" ') == b"a<b"
    assert payload.stdin_of(StdinKind.TEXT, b"") == b""
    with pytest.raises(payload.DataError, match="no valid JSON"):
        payload.stdin_of(StdinKind.TEXT, b"plain text")

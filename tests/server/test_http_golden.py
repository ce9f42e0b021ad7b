"""Raw requests on which sandboxd once differed, with daprd 1.18.2's answers, on both HTTP servers.

OURS tells of each difference that is left what is answered instead, and docs/dapr.md why.
"""

import base64
import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ENGINES, guest_component
from tests.running import RunningServer, write_components

GOLDEN = Path(__file__).parents[1] / "golden" / "daprd-1.18.2" / "http.jsonl"
CASES: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_bytes().splitlines()]

OURS: dict[str, tuple[int, str]] = {
    # The keys argv and env.NAME are sandboxd's own.
    "argv-not-JSON": (400, "argv must be a JSON array of strings"),
    "env-empty-name": (400, "a name must not be empty"),
    "environment": (200, "TRACEPARENT=00-"),
    # A head may have 16 KiB, and an unknown expectation is no reason to refuse (RFC 9110, 10.1.1: MAY).
    "head-8.5K": (200, '"x"'),
    "expect-unknown": (200, '"x"'),
    "chunk-size-bad": (400, ""),
    # Nobody hears without a token that a path exists, whatever its escapes are.
    "token-after-bad-escape": (401, "invalid api token"),
    "token-encoded-healthz": (401, "invalid api token"),
    "stack-overflow-text": (500, "wasm error: stack overflow"),
}
CLOSE = b"Connection: close\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"
RAW = (
    b"POST /v1.0/bindings/\xc3\xa9 HTTP/1.1\r\nHost: x\r\n%bContent-Length: 34\r\n\r\n"
    b'{"operation":"execute","data":"x"}'
)
"""A request whose path has an é that is not percent-encoded."""


@pytest.fixture(scope="module", params=ENGINES)
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    documents = [guest_component("echo", "multi"), guest_component("multi"), guest_component("é", "multi")]
    folder = write_components(tmp_path_factory.mktemp("resources"), documents)
    options = (folder, "--engine", request.param, "--workers", "1", "--app-id", "wasm")
    with RunningServer(*options) as plain, RunningServer(*options, environ={"DAPR_API_TOKEN": "sesame"}) as token:
        yield {"binding": plain, "token": token, "engine": request.param}


def exchange(port: int, request: bytes) -> bytes:
    """Send a request and return all that is answered until the connection ends."""
    parts = []
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
        connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


def parsed(answer: bytes) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of the first answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", body, re.DOTALL))
    elif "content-length" in headers:
        body = body[: int(headers["content-length"])]
    return int(first.split()[1]), headers, body.decode("utf-8", "replace")


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_recorded(servers: dict[str, Any], case: dict[str, Any]) -> None:
    answer = exchange(servers[case["server"]].port, base64.b64decode(case["request_b64"]))
    if case["case"] == "pipeline-good-then-garbage" and not answer.startswith(b"HTTP/1.1 200"):
        pytest.fail(f"the good request lost its answer: {answer!r}")
    status, headers, body = parsed(answer)
    ours = OURS.get(case["case"])
    if ours is not None:
        assert status == ours[0], body
        assert ours[1] in body
        return
    wanted = case["daprd"][0]
    assert status == int(wanted["status"]), body
    for name in ("content-type", "x-content-type-options", "baggage", "tracestate"):
        assert headers.get(name) == wanted["headers"].get(name, [None])[0], name
    if "traceparent" in wanted["headers"]:
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", headers["traceparent"])
    if headers.get("content-type") == "application/json" and body.startswith("{"):
        ours_error, theirs = json.loads(body), json.loads(wanted["body"])
        assert {key: ours_error[key] for key in theirs} == theirs
    else:
        assert body == wanted["body"]


def test_http2_without_an_offer_is_refused_in_words_on_uvicorn(servers: dict[str, Any]) -> None:
    """Prior knowledge of HTTP/2 (RFC 9113, 3.3): Hypercorn speaks it, uvicorn's answer says that it does not."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", servers["binding"].port), timeout=60)) as caller:
        caller.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        answer = caller.recv(65536)
    if servers["engine"] == "uvicorn":
        assert answer.startswith(b"HTTP/1.1 505 ")
        assert b"engine.kind: hypercorn" in answer
    else:
        assert answer.startswith(b"\0\0")  # a frame: SETTINGS


@pytest.mark.parametrize("offer", [b"", OFFER])
def test_a_target_outside_ascii_behind_another_request(servers: dict[str, Any], offer: bytes) -> None:
    if servers["engine"] == "hypercorn" and offer:
        pytest.skip("Hypercorn takes the offer up")
    plain = b"GET /v1.0/metadata HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = exchange(servers["binding"].port, plain + RAW % (offer or CLOSE) + b"GARBAGE\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b'\r\n\r\n"x"' in answer


def test_a_body_is_not_parsed_as_a_request(servers: dict[str, Any]) -> None:
    """What stands in a body is never taken for a request, whatever bytes it has."""
    chunked = b"POST /v1.0/bindings/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(servers["binding"].port, chunked + RAW % CLOSE)
    assert b"200 OK" not in answer
    assert b'"x"' not in answer

"""The front over real sockets on both engines, with a stand-in where the pool would be."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from tests.server.fronts import ENGINES, Front, started
from tests.server.test_golden import CASES, check

INVOKE = "ERR_INVOKE_OUTPUT_BINDING"


@pytest.fixture(scope="module", params=ENGINES)
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    with started(request.param, timeout_ms=2000, dapr=1) as front:
        yield front


@pytest.fixture
def client(front: Front) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=front.base_url, verify=False, timeout=120) as client:
        yield client


def invoke(client: httpx.Client, *, name: str = "echo", headers: Any = None, **members: Any) -> httpx.Response:
    body = {"operation": "execute", **members}
    return client.post(f"/v1.0/bindings/{name}", json=body, headers=headers)


def do(client: httpx.Client, what: str, headers: Any = None, **metadata: str) -> httpx.Response:
    return invoke(client, headers=headers, metadata={"args": f"do={what}", **metadata})


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_golden(front: Front, case: dict[str, Any]) -> None:
    check(front.base_url, case)


def test_success(client: httpx.Client) -> None:
    answer = invoke(client, data="x")
    assert (answer.status_code, answer.content) == (200, b'"x"')
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", answer.headers["traceparent"])
    assert "server" not in answer.headers


def test_empty_stdout(client: httpx.Client) -> None:
    answer = do(client, "empty")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    "path",
    [
        "/v1.0/bindings/echo/",
        "//v1.0//bindings/echo",
        "/v1.0/./bindings/x/../echo",
        "/v1.0/bindings/%65cho",
        "/v1.0/bindings/other+name",
        "/v1.0/bindings/other%20name",
    ],
)
def test_spellings_of_the_path(front: Front, path: str) -> None:
    body = b'{"operation":"execute","data":1}'
    for method in (b"POST", b"PUT"):
        head = b"%s %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        answer = raw(front, head % (method, path.encode(), len(body)) + body)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n1")


def raw(front: Front, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.0/bindings/echo"),
        ("DELETE", "/v1.0/bindings/echo"),
        ("POST", "/v1.0/bindings"),
        ("POST", "/v1.0/bindings/echo/more"),
        ("POST", "/v1.0-alpha1/bindings/echo"),
        ("POST", "/v1.0/healthz"),
        ("GET", "/"),
    ],
)
def test_everything_else_is_direct_invocation(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 404
    assert answer.content == (
        b'{"errorCode":"ERR_DIRECT_INVOKE","message":"failed getting app id either from the URL path or the header'
        b' dapr-app-id"}'
    )


def test_a_malformed_escape_in_the_path(front: Front) -> None:
    assert raw(front, b"POST /v1.0/bindings/%zz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 400 "
    )


def test_order_of_checks(client: httpx.Client) -> None:
    def message(body: dict[str, Any], name: str) -> str:
        answer = client.post(f"/v1.0/bindings/{name}", json=body)
        assert answer.status_code == 500
        assert answer.json()["errorCode"] == INVOKE
        text: str = answer.json()["message"]
        return text

    assert client.post("/v1.0/bindings/nope", content=b"{").status_code == 400
    prefix = "error invoking output binding "
    assert message({}, "nope") == prefix + "nope: operation field is missing from request"
    assert message({"operation": "get"}, "nope") == prefix + "nope: couldn't find output binding nope"
    assert message({"operation": "get"}, "echo") == (
        prefix + "echo: binding echo does not support operation get. supported operations:execute"
    )


def test_messages_are_html_escaped(client: httpx.Client) -> None:
    answer = client.post("/v1.0/bindings/%3Cb%3E&", json={"operation": "x"})
    assert b"output binding \\u003cb\\u003e\\u0026: couldn't" in answer.content


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("trapped", "module[echo-N] function[_start] failed: wasm error: unreachable"),
        ("memory_exceeded", "module[echo-N] function[_start] failed: wasm error: unreachable"),
        ("output_exceeded", "module[echo-N] function[_start] failed: wasm error: unreachable"),
        ("exit", "module closed with exit_code(3)"),
        ("cancelled", "module closed with context canceled"),
        ("hang", "module closed with context deadline exceeded: more than 2s (timeout)"),
        ("worker_lost", "the worker process was lost"),
        ("host_failed", "internal failure of the server"),
        ("bug", "internal failure of the server"),
        ("broken", "couldn't find output binding echo"),
    ],
)
def test_failed_invocations(client: httpx.Client, what: str, reason: str) -> None:
    answer = do(client, what)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/json"
    assert "traceparent" in answer.headers
    assert answer.json()["errorCode"] == INVOKE
    shown = re.sub(r"\[echo-\d+\]", "[echo-N]", answer.json()["message"])
    assert shown == f"error invoking output binding echo: {reason}"


def test_the_end_of_stderr_is_beside_the_message(client: httpx.Client) -> None:
    detail = do(client, "exit").json()["detail"]
    assert detail == "stderr: " + "x" * (1024 - 5) + "<bad>"
    assert do(client, "broken").json()["detail"] == "module not found"


def test_three_refusals(client: httpx.Client) -> None:
    answers = [do(client, what) for what in ("full", "waited", "closing", "loading")]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert {answer.json()["errorCode"] for answer in answers} == {"ERR_NO_WORKER"}
    assert len({answer.json()["message"] for answer in answers}) == 4


def shown(answer: httpx.Response) -> tuple[list[str], dict[str, str]]:
    assert answer.status_code == 200, answer.text
    args, env = json.loads(answer.content)
    return args, env


def test_args_are_split_at_every_comma(client: httpx.Client) -> None:
    answer = invoke(client, metadata={"args": 'do=args,-ne,print "Hello "; print,,'})
    assert shown(answer)[0] == ["-ne", 'print "Hello "; print', "", ""]


def test_argv_wins_and_may_contain_commas(client: httpx.Client) -> None:
    answer = invoke(client, metadata={"args": "x,y", "argv": json.dumps(["do=args", "a,b", "é"])})
    assert shown(answer)[0] == ["a,b", "é"]


def test_environment(client: httpx.Client) -> None:
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    headers = [("traceparent", trace), ("tracestate", "a=1"), ("tracestate", "b=2"), ("baggage", "k=v;p=1, l=w")]
    answer = do(client, "args", headers, **{"env.A": "1", "env.B": "", "env.FIXED": "2", "env.TRACEPARENT": "x"})
    env = shown(answer)[1]
    assert env.pop("TRACEPARENT") == answer.headers["traceparent"]
    assert env == {"A": "1", "B": "", "TRACESTATE": "a=1,b=2", "BAGGAGE": "k=v;p=1, l=w"}
    assert answer.headers["traceparent"][:36] == trace[:36]
    assert answer.headers["traceparent"][36:52] != "cd" * 8
    assert answer.headers["traceparent"][52:] == "-01"


@pytest.mark.parametrize(
    "header",
    ["", "00-0-0-0", f"ff-{'a' * 32}-{'b' * 16}-01", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'b' * 16}-01-x"],
)
def test_an_unusable_traceparent_starts_a_new_trace(client: httpx.Client, header: str) -> None:
    answer = do(client, "args", {"traceparent": header, "tracestate": "a=1"})
    assert "a" * 32 not in answer.headers["traceparent"]
    assert "TRACESTATE" not in shown(answer)[1]


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("no-value", 'invalid baggage list-member: "no-value"'),
        ("a b=c", 'invalid key: "a b"'),
        ("a=b c", 'invalid value: "b c"'),
        ("a=%zz", 'invalid value: invalid URL escape "%zz"'),
        ("a=b;c d", 'invalid baggage list-member property: "c d"'),
        ("a=" + "b" * 8200, "baggage-string too large: 8202"),
        (",", 'invalid baggage list-member: ""\ninvalid baggage list-member: ""'),
        (",".join(f"k{n}=v" for n in range(65)), "too many list-members in baggage-string"),
    ],
)
def test_bad_baggage(client: httpx.Client, header: str, fault: str) -> None:
    for answer in (do(client, "args", {"baggage": header}), client.get("/v1.0/metadata", headers={"baggage": header})):
        assert answer.status_code == 400
        assert answer.text == f"invalid baggage header: {fault}\n"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.headers.get_list("traceparent")) == 1  # daprd's has none
    assert client.get("/v1.0/healthz", headers={"baggage": header}).status_code == 204


def test_good_baggage_and_tracestate_are_answered(client: httpx.Client) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    long = "a=" + "b" * 5000
    for answer in (
        do(client, "args", {"baggage": long, "traceparent": trace, "tracestate": "a=b"}),
        client.get("/nothing", headers={"baggage": long, "traceparent": trace, "tracestate": "a=b"}),
    ):
        assert answer.headers["baggage"] == long
        assert answer.headers["tracestate"] == "a=b"
        assert answer.headers["traceparent"].startswith(trace[:36])
    assert "tracestate" not in do(client, "args", {"tracestate": "a=b"}).headers


def test_attributes_keys_are_unescaped(client: httpx.Client) -> None:
    for path in ("k%20a", "%C3%A9", "a%2Fb", "p+q"):
        assert client.put(f"/v1.0/metadata/{path}", content=b"v").status_code == 204, path
    found = client.get("/v1.0/metadata").json()["extended"]
    assert {key: found.get(key) for key in ("k a", "é", "a/b", "p q")} == dict.fromkeys(("k a", "é", "a/b", "p q"), "v")


@pytest.mark.parametrize(
    ("metadata", "status", "code", "words"),
    [
        ({"args": "a\0b"}, 500, INVOKE, "error invoking output binding echo: args invalid: contains NUL character"),
        ({"argv": "[1]"}, 400, "ERR_MALFORMED_REQUEST", "JSON array of strings"),
        ({"argv": "[" * 5000}, 400, "ERR_MALFORMED_REQUEST", "JSON array of strings"),
        ({"argv": '["\\ud800"]'}, 400, "ERR_MALFORMED_REQUEST", "JSON array of strings"),
        ({"env.": "x"}, 400, "ERR_MALFORMED_REQUEST", "name must not be empty"),
        ({"env.A=B": "x"}, 400, "ERR_MALFORMED_REQUEST", "contain '='"),
        ({"env.A\0": "x"}, 400, "ERR_MALFORMED_REQUEST", "NUL"),
        ({"env.A": "\0"}, 400, "ERR_MALFORMED_REQUEST", "NUL"),
        ({"baggage": "\0"}, 400, "ERR_MALFORMED_REQUEST", "NUL"),
        ({"args": "x" * 4096}, 400, "ERR_MALFORMED_REQUEST", "at most 4 KiB (argsLimit)"),
        ({"env.A": "x" * 4096}, 400, "ERR_MALFORMED_REQUEST", "at most 4 KiB (envLimit)"),
    ],
)
def test_metadata_that_cannot_be(
    client: httpx.Client, metadata: dict[str, str], status: int, code: str, words: str
) -> None:
    answer = invoke(client, metadata=metadata)
    assert answer.status_code == status
    assert answer.json()["errorCode"] == code
    assert words in answer.json()["message"]


def test_health(client: httpx.Client) -> None:
    for path in ("/v1.0/healthz", "/v1.0/healthz?appid=app", "/v1.0/healthz/outbound", "/v1.0/healthz/"):
        answer = client.get(path)
        assert (answer.status_code, answer.content) == (204, b""), path
    answer = client.get("/v1.0/healthz?appid=another")
    assert answer.status_code == 500
    assert answer.json() == {"errorCode": "ERR_HEALTH_APPID_NOT_MATCH", "message": "dapr app-id does not match"}
    # daprd's answers (1.18.2): the first one counts, an empty one too; what cannot be unescaped is none.
    for query, status in (("?appid=", 500), ("?appid", 500), ("?appid=x&appid=app", 500), ("?appid=%zz", 204)):
        assert client.get(f"/v1.0/healthz{query}").status_code == status, query
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").text == "ok"


def test_metadata_endpoint(client: httpx.Client) -> None:
    assert client.put("/v1.0/metadata/colour", content=b"blue").status_code == 204
    document = client.get("/v1.0/metadata").json()
    assert document["id"] == "app"
    assert document["extended"].items() >= {"daprRuntimeVersion": "test", "colour": "blue"}.items()
    assert document["components"][0] == {
        "name": "echo",
        "type": "bindings.wasm",
        "version": "v1",
        "capabilities": ["OUTPUT_BINDING"],
    }
    assert client.put("/v1.0/metadata/long", content=b"x" * 5000).status_code == 400


def test_metrics(client: httpx.Client) -> None:
    invoke(client, data="x")
    do(client, "exit")
    invoke(client, name="nope")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    for line in (
        'sandboxd_requests_total{binding="echo",outcome="completed",protocol="http"}',
        'sandboxd_requests_total{binding="echo",outcome="exit_nonzero",protocol="http"}',
        'sandboxd_requests_total{binding="",outcome="not_found",protocol="http"}',
        'sandboxd_request_duration_seconds_bucket{binding="echo",le="0.0005",outcome="completed"}',
        'sandboxd_pool_workers{pool="default",state="busy"} 1.0',
        'sandboxd_pool_rejected_total{pool="default",reason="queue_full"} 3.0',
        'sandboxd_build_info{python="',
        'dapr_component_output_binding_count{app_id="app",component="echo",namespace="",operation="execute",success="tr',
        # As a scrape of daprd has it: a counter without `_total`, and bounds that are whole numbers.
        "# TYPE dapr_component_output_binding_count counter\n",
        'dapr_component_output_binding_latencies_bucket{app_id="app",component="echo",le="100",namespace="",operation="ex',
        # Of names that do not exist only the number is kept.
        'dapr_component_output_binding_count{app_id="app",component="",namespace="",operation="execute",success="false"}',
    ):
        assert "\n" + line in text, line
    assert "nope" not in text
    open_metrics = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_chunked_bodies(client: httpx.Client) -> None:
    parts = [b'{"operation":"exe', b'cute","da', b'ta":"', b"x" * 100_000, b'"}']
    answer = client.post("/v1.0/bindings/echo", content=iter(parts))
    assert answer.content == b'"' + b"x" * 100_000 + b'"'

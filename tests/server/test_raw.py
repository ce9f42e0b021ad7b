"""`/v1.0/bindings/NAME/raw`: bytes in, bytes out, on both HTTP servers, with a gateway's statuses (RFC 9110, 15)."""

import json
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.conftest import ENGINES, guest_component
from tests.running import PATIENT, RunningServer, write_components

BYTES = bytes(range(256)) * 8
DIRECT_INVOKE = {
    "errorCode": "ERR_DIRECT_INVOKE",
    "message": "failed getting app id either from the URL path or the header dapr-app-id",
}


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    documents = [
        guest_component("multi"),
        guest_component("png", "multi", contentType="image/png", stdout="base64", stdin="base64"),
        guest_component("loop", timeout="300ms"),
        guest_component("a b", "multi"),
        guest_component("raw", "multi"),
    ]
    folder = write_components(tmp_path_factory.mktemp("resources"), documents)
    policy = {"policies": {"retries": {"r": {"duration": "1ms", "maxRetries": 2}}},
              "targets": {"components": {"a b": {"outbound": {"retry": "r"}}}}}  # fmt: skip
    resiliency = {"apiVersion": "dapr.io/v1alpha1", "kind": "Resiliency", "metadata": {"name": "r"}, "spec": policy}
    (folder / "resiliency.yaml").write_text(json.dumps(resiliency))
    environ = {"SANDBOXD_LISTEN_MAX_BODY_SIZE": "64Ki", **PATIENT}
    with RunningServer(folder, "--engine", request.param, "--workers", "1", environ=environ) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_bytes_go_in_and_come_out(client: httpx.Client, method: str) -> None:
    answer = client.request(
        method, "/v1.0/bindings/multi/raw", content=BYTES, headers={"content-type": "application/x-anything"}
    )
    assert (answer.status_code, answer.content) == (200, BYTES)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == str(len(BYTES))
    assert answer.headers["traceparent"]
    # The component's kinds of stdin and stdout are for JSON; its content type holds.
    answer = client.request(method, "/v1.0/bindings/png/raw", content=BYTES)
    assert (answer.content, answer.headers["content-type"]) == (BYTES, "image/png")
    assert client.request(method, "/v1.0/bindings/multi/raw").content == b""


def test_metadata_is_in_the_query(client: httpx.Client) -> None:
    answer = client.post(
        "/v1.0/bindings/multi/raw?metadata.args=dump%2Cx+y&other=1&metadata.env.A=%C3%A9", content=b"z"
    )
    assert answer.content == b"arg 5:multi\narg 4:dump\narg 3:x y\nz"
    answer = client.post("/v1.0/bindings/multi/raw?metadata.args=env&metadata.env.A=%C3%A9&x=%zz;")
    assert "env 4:A=é\n" in answer.text
    answer = client.post("/v1.0/bindings/multi/raw?metadata.argv=nope")
    assert answer.status_code == 400
    assert "argv must be a JSON array" in answer.json()["message"]


def test_a_name_is_unescaped_and_may_be_raw(client: httpx.Client) -> None:
    assert client.post("/v1.0/bindings/a%20b/raw", content=b"1").content == b"1"
    assert client.post("/v1.0//bindings/multi/raw/", content=b"1").content == b"1"
    assert client.post("/v1.0/bindings/raw/raw", content=b"1").content == b"1"
    answer = client.post("/v1.0/bindings/raw", content=b'{"operation": "execute", "data": 1}')
    assert answer.content == b"1"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("multi/raw?metadata.args=exit,3", 502, "error invoking output binding multi: module closed with exit_code(3)"),
        ("nope/raw", 404, "error invoking output binding nope: couldn't find output binding nope"),
        (
            "loop/raw",
            504,
            "error invoking output binding loop: module closed with context deadline exceeded: more than",
        ),
    ],
)
def test_failures_have_the_statuses_of_a_gateway(client: httpx.Client, path: str, status: int, message: str) -> None:
    answer = client.post(f"/v1.0/bindings/{path}")
    assert answer.status_code == status
    assert answer.json()["errorCode"] == "ERR_INVOKE_OUTPUT_BINDING"
    assert answer.json()["message"].startswith(message)


def test_a_body_that_is_too_long(server: RunningServer, client: httpx.Client) -> None:
    assert client.post("/v1.0/bindings/multi/raw", content=b"x" * 65536).content == b"x" * 65536
    chunks = (b"x" * 1024 for _ in range(70))
    for content in (b"x" * 65537, chunks):
        answer = client.post("/v1.0/bindings/multi/raw", content=content)
        assert answer.status_code == 413
        assert "longer than 64 KiB (listen.maxBodySize)" in answer.json()["message"]
    assert server.metric("sandboxd_limits_reached_total", binding="multi", limit="listen.maxBodySize") == 2


def test_policies_hold(server: RunningServer, client: httpx.Client) -> None:
    before = server.metric("sandboxd_guest_duration_seconds_count", binding="a b")
    assert client.post("/v1.0/bindings/a%20b/raw?metadata.args=exit,1").status_code == 502
    assert server.metric("sandboxd_guest_duration_seconds_count", binding="a b") == before + 3


@pytest.mark.parametrize(("method", "path"), [("GET", "multi/raw"), ("POST", "multi/raw/x"), ("POST", "multi/RAW")])
def test_other_requests_are_daprs(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, f"/v1.0/bindings/{path}")
    assert (answer.status_code, answer.json()) == (404, DIRECT_INVOKE)


def test_dapr_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = write_components(tmp_path_factory.mktemp("only"), [guest_component("multi")])
    environ = {"SANDBOXD_LISTEN_DAPR_ONLY": "true", "DAPR_API_TOKEN": "sesame"}
    with RunningServer(folder, "--workers", "1", environ=environ) as running, running.client() as client:
        for path in ("/v1.0/bindings/multi/raw", "/v1.0/http/multi/x"):
            answer = client.post(path, content=b"x", headers={"dapr-api-token": "sesame"})
            assert (answer.status_code, answer.json()) == (404, DIRECT_INVOKE)
            assert client.post(path, content=b"x").status_code == 401
            assert client.post(path, content=b"x", headers={"baggage": "="}).status_code == 400

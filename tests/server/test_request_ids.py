"""Every answer has a `traceparent`, and its span id is the `request_id` of what the log says of the request."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import h2.connection
import h2.events
import pytest
import wasmtime

from sandboxd.front.http import guest_http
from sandboxd.front.ports import Message, Receive, Scope, Send
from sandboxd.front.servers.serving import HttpServerSettings, listen, serve
from sandboxd.wire.messages import ResponseHead
from tests.conftest import ENGINES, guest_component
from tests.grpc_calls import invoke
from tests.guests import path
from tests.host.refusing_text import refusing
from tests.running import RunningServer, component, write_components
from tests.server.admin import AdminServer
from tests.waiting import until

TOKEN = "sesame"
TRACE = "ab" * 16
PARENT = f"00-{TRACE}-{'cd' * 8}-01"
EXECUTE = b'{"operation":"execute"}'


@dataclass
class Case:
    """A request, and what the log says of its answer at debug; "" for nothing."""

    first: str
    status: int
    logged: str
    body: bytes = b""
    headers: tuple[str, ...] = ()
    token: bool = True
    own_trace: bool = False
    """The head cannot be read, so that the answer begins a trace of its own."""
    cut: bool = False
    """The head does not end."""

    def request(self) -> bytes:
        lines = [self.first + " HTTP/1.1", "host: here", f"traceparent: {PARENT}", "connection: close", *self.headers]
        if self.token:
            lines.append(f"dapr-api-token: {TOKEN}")
        if self.body:
            lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode() + (b"" if self.cut else b"\r\n\r\n") + self.body


CASES = {
    "binding": Case("POST /v1.0/bindings/tiny", 200, "guest ran", EXECUTE),
    "binding, escaped": Case("POST /v1.0/bindings/%74iny", 200, "guest ran", EXECUTE),
    "guest fails": Case("POST /v1.0/bindings/trap", 500, "request failed", EXECUTE),
    "no operation": Case("POST /v1.0/bindings/tiny", 500, "request failed", b"{}"),
    "no JSON": Case("POST /v1.0/bindings/tiny", 400, "request failed", b"{"),
    "unknown binding": Case("POST /v1.0/bindings/nobody", 500, "request failed", EXECUTE),
    "raw": Case("POST /v1.0/bindings/tiny/raw", 200, "guest ran", b"x"),
    "raw, unknown": Case("POST /v1.0/bindings/nobody/raw", 404, "request failed", b"x"),
    "HTTP guest fails": Case("GET /v1.0/http/web/", 502, "request failed"),
    "HTTP guest, unknown": Case("GET /v1.0/http/nobody/", 404, "request failed"),
    "other method": Case("DELETE /v1.0/bindings/tiny", 404, "request refused"),
    "unknown path": Case("GET /nothing", 404, "request refused"),
    "metadata": Case("GET /v1.0/metadata", 200, ""),
    "attribute": Case("PUT /v1.0/metadata/key", 204, "", b"value"),
    "attribute, too long": Case("PUT /v1.0/metadata/key", 400, "request refused", b"x" * 65536),
    "healthz": Case("GET /v1.0/healthz", 204, ""),
    "healthz, other app": Case("GET /v1.0/healthz?appid=other", 500, "request refused"),
    "outbound": Case("GET /v1.0/healthz/outbound", 204, ""),
    "livez": Case("GET /livez", 200, ""),
    "readyz": Case("GET /readyz", 200, ""),
    "metrics": Case("GET /metrics", 200, ""),
    "preflight": Case(
        "OPTIONS /v1.0/bindings/tiny",
        200,
        "",
        headers=("origin: http://page.example", "access-control-request-method: POST"),
    ),
    "bad escape": Case("GET /%zz", 400, "request refused"),
    "bad baggage": Case("GET /v1.0/metadata", 400, "request refused", headers=("baggage: no-value",)),
    "no token": Case("GET /v1.0/metadata", 401, "request refused", token=False),
    "no token, binding": Case("POST /v1.0/bindings/tiny", 401, "request refused", EXECUTE, token=False),
    "two hosts": Case("GET /livez", 400, "request refused", headers=("host: there",), own_trace=True),
    "long head": Case("GET /livez", 431, "request refused", headers=("x: " + "a" * 20_000,), own_trace=True, cut=True),
    "no HTTP": Case("GET /livez nonsense", 400, "request refused", own_trace=True),
}


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    folder = tmp_path_factory.mktemp("ids")
    (folder / "web.wasm").write_bytes(wasmtime.wat2wasm(refusing(10)))
    documents = [guest_component("tiny"), guest_component("trap"), component("web", f"file://{folder}/web.wasm")]
    environ = {
        "SANDBOXD_LOGGING_LEVEL": "debug",
        "DAPR_API_TOKEN": TOKEN,
        "SANDBOXD_LISTEN_ALLOWED_ORIGINS": "http://page.example",
    }
    options = ("--engine", request.param, "--workers", "1", "--app-id", "us")
    with AdminServer(write_components(folder / "r", documents), *options, environ=environ) as running:
        yield running


def answer_of(port: int, request: bytes) -> bytes:
    """All that is answered until the connection ends."""
    parts = []
    with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


def trace_of(answer: bytes) -> tuple[str, str]:
    """The trace id and the span id of an answer, which has one traceparent."""
    head = answer.partition(b"\r\n\r\n")[0].decode().lower()
    (found,) = re.findall(r"\r\ntraceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-0[01](?=\r\n|$)", head)
    return found[0], found[1]


@pytest.mark.parametrize("name", CASES)
def test_the_answer_leads_to_the_log(server: AdminServer, name: str) -> None:
    case = CASES[name]
    answer = answer_of(server.port, case.request())
    assert answer.startswith(b"HTTP/1.1 %d " % case.status), answer
    trace, span = trace_of(answer)
    assert (trace != TRACE) == case.own_trace
    assert span != "cd" * 8
    if case.logged:
        line = server.wait_for(lambda line: line.get("request_id") == span and line["message"] == case.logged)
        assert line["trace_id"] == trace
        assert case.logged == "guest ran" or line["status"] == case.status
    assert TOKEN not in server.text()


def test_no_room_at_all(server: AdminServer, tmp_path: Path) -> None:
    """Connections beyond the limit, and requests that find no place in the queue."""
    engine = server.wait_for(lambda line: line.get("event") == "serving")["engine"]
    environ = {
        "SANDBOXD_LOGGING_LEVEL": "debug",
        "SANDBOXD_LISTEN_MAX_PEER_CONNECTIONS": "1",
        "SANDBOXD_POOL_QUEUE_LIMIT": "0",
    }
    resources = write_components(tmp_path / "r", [guest_component("loop", timeout="1m")])
    with (
        RunningServer(resources, "--engine", engine, "--workers", "1", environ=environ) as full,
        socket.create_connection(("127.0.0.1", full.port), timeout=60) as hanging,
    ):
        head = b"POST /v1.0/bindings/loop HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: 23\r\n\r\n"
        hanging.sendall(head + EXECUTE)
        until(lambda: full.metric("sandboxd_pool_workers", state="busy") == 1, "busy")
        answer = answer_of(full.port, head + EXECUTE)
        assert b"too many connections" in answer
        line = full.wait_for(lambda line: line.get("request_id") == trace_of(answer)[1])
        assert (line["message"], line["status"]) == ("request refused", 503)
    environ["SANDBOXD_LISTEN_MAX_PEER_CONNECTIONS"] = "100"
    with (
        RunningServer(resources, "--engine", engine, "--workers", "1", environ=environ) as full,
        socket.create_connection(("127.0.0.1", full.port), timeout=60) as hanging,
    ):
        hanging.sendall(head + EXECUTE)
        until(lambda: full.metric("sandboxd_pool_workers", state="busy") == 1, "busy")
        answer = answer_of(full.port, head + EXECUTE)
        assert b"ERR_NO_WORKER" in answer
        line = full.wait_for(lambda line: line.get("request_id") == trace_of(answer)[1])
        assert (line["message"], line["binding"]) == ("request refused", "loop")


def test_http2(server: AdminServer) -> None:
    if not any(line.get("engine") == "hypercorn" for line in server.lines):
        pytest.skip("uvicorn speaks no HTTP/2")
    for target, status in (("/livez", "200"), ("http://here/livez", "400")):
        connection = h2.connection.H2Connection()
        connection.initiate_connection()
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", "here"), (":path", target)]
        connection.send_headers(1, fields, end_stream=True)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as caller:
            caller.sendall(connection.data_to_send())
            answer = None
            while answer is None:
                for event in connection.receive_data(caller.recv(65536)):
                    if isinstance(event, h2.events.ResponseReceived):
                        answer = dict(event.headers)
        assert answer[b":status"].decode() == status
        span = answer[b"traceparent"].decode().split("-")[2]
        if status == "400":
            assert server.wait_for(lambda line, span=span: line.get("request_id") == span)["status"] == 400


def test_the_status_page(server: AdminServer) -> None:
    port = int(server.admin_url.rpartition(":")[2])
    for first, status in (("GET /ui", 200), ("GET /v1.0/sandboxd/status", 401), ("GET /nothing", 401)):
        answer = answer_of(port, f"{first} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        span = trace_of(answer)[1]
        if status != 200:
            assert server.wait_for(lambda line, span=span: line.get("request_id") == span)["status"] == status


def test_grpc_tells_who_asks(tmp_path: Path) -> None:
    """daprd's answers over gRPC have no trace context, and clients of it get no more than that."""
    resources = write_components(tmp_path / "r", [component("trap", f"file://{path('trap')}")])
    where = tmp_path / "grpc.sock"
    with (
        RunningServer(resources, "--workers", "1", "--grpc-unix-socket", str(where)) as running,
        grpc.insecure_channel(f"unix:{where}") as channel,
    ):
        running.wait_for(lambda line: line.get("event") == "serving_grpc")
        assert invoke(channel, "trap", b"", {}, [("traceparent", PARENT)]).trailing == []
        asked = invoke(channel, "trap", b"", {}, [("traceparent", PARENT), ("sandboxd-debug", "1")])
        ((name, value),) = asked.trailing
        assert (name, value[:36]) == ("traceparent", PARENT[:36])
        running.wait_for(lambda line: line.get("request_id") == value[36:52] and line["message"] == "request failed")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_application_that_fails(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    """What no request can bring about, a bug of the server, is answered and found as well."""

    async def fails(scope: Scope, _receive: Receive, _send: Send) -> None:
        assert scope["type"] == "lifespan"

    async def ask() -> bytes:
        stop = asyncio.Event()
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        settings = HttpServerSettings(kind=engine)
        serving = asyncio.create_task(serve(fails, listener, settings, stop, drain_s=0))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET / HTTP/1.1\r\nhost: here\r\ntraceparent: {PARENT}\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        stop.set()
        await serving
        return answer

    with caplog.at_level("DEBUG", logger="sandboxd.request"):
        answer = asyncio.run(ask())
    assert answer.startswith(b"HTTP/1.1 500 "), answer
    trace, span = trace_of(answer)
    assert trace == TRACE
    (line,) = [vars(record)["sandboxd_fields"] for record in caplog.records if record.message == "request refused"]
    assert (line["request_id"], line["status"]) == (span, 500)
    assert "AssertionError" in caplog.text


def test_a_guest_cannot_hide_it() -> None:
    """A guest that passes an origin's headers on has the origin's traceparent among them."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    scope = {"type": "http", "method": "GET", "raw_path": b"/", "http_version": "1.1", "headers": []}
    call = guest_http._Call(scope, receive, send, PARENT)
    asyncio.run(call._start(ResponseHead(1, 200, ((b"TraceParent", b"theirs"), (b"x", b"1"))), ()))
    assert sent[0]["headers"] == [(b"x", b"1"), (b"traceparent", PARENT.encode())]

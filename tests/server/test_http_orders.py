"""A component that is both a command and an HTTP handler, and every order in which a handler may answer, streamed."""

import json
import socket
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.guests.component.build import python_component
from tests.host.orders import KEPT_RESPONSES, RESPONSES, ResponseCase, told_lines
from tests.origins import Origin
from tests.running import RunningServer, component, write_components
from tests.server.fronts import ENGINES

pytestmark = pytest.mark.build


@pytest.fixture(scope="module", params=ENGINES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    guest = f"file://{python_component('walk', 'both')}"
    documents = [component("both", guest, allowedOutboundHosts='["http://127.0.0.0/8:*"]')]
    resources = write_components(tmp_path_factory.mktemp("resources"), documents)
    with RunningServer(resources, "--engine", request.param, "--workers", "1") as running:
        yield running


@pytest.mark.parametrize("case", [*RESPONSES, *KEPT_RESPONSES], ids=str)
def test_orders(both: RunningServer, case: ResponseCase) -> None:
    with both.client() as client:
        try:
            answer = client.get(f"/v1.0/http/both/walk?{case.query}")
            found = len(answer.content) if answer.status_code == 200 else None
        except httpx.RemoteProtocolError:
            found = None
    assert found == case.size


@pytest.mark.parametrize(
    ("method", "steps", "status", "body"),
    [
        ("POST", "length+4,body,set,await,write,put+4", b"200", b"xxxx"),
        ("POST", "body,set,await,write,put+4", b"200", b"4\r\nxxxx\r\n0\r\n\r\n"),
        ("POST", "status+204,set,await", b"204", b""),
        ("POST", "status+304,set,await", b"304", b""),
        ("POST", "length+0,body,set,await", b"200", b""),
        ("HEAD", "length+4,set,await", b"200", b""),
    ],
)
def test_a_head_leaves_when_it_is_set(both: RunningServer, method: str, steps: str, status: bytes, body: bytes) -> None:
    """The request ends only after the head has come: a head that waited for the guest's return would never come."""
    with socket.create_connection(("127.0.0.1", both.port), timeout=60) as sock, sock.makefile("rb") as stream:
        lines = (f"{method} /v1.0/http/both/walk?{steps} HTTP/1.1", "Host: x", "Transfer-Encoding: chunked")
        sock.sendall("\r\n".join((*lines, "Connection: close", "", "")).encode())
        assert stream.readline().split()[1] == status
        while stream.readline() != b"\r\n":
            pass
        sock.sendall(b"0\r\n\r\n")
        assert stream.read() == body


def test_one_guest_is_a_command_and_a_handler(both: RunningServer) -> None:
    with both.client() as client:
        answer = client.get("/v1.0/http/both/walk?body,write,put+5,set")
        assert (answer.status_code, answer.content) == (200, b"xxxxx")
    with Origin() as origin:
        steps = ["body", "write", "put 5", "drop-stream", "finish", "handle", "wait"]
        argv = json.dumps([origin.authority, "POST", "/echo", *steps])
        # What makes a request for a guest that is a handler only is nothing to a command.
        reply = both.invoke("both", None, {"argv": argv, "http.path": "/not/a/request"})
        assert reply.status_code == 200, reply.text
        assert told_lines(reply.content)[-1] == "wait=200"
        assert [seen.body for seen in origin.seen] == [b"xxxxx"]
    assert "metadata.statuscode" not in reply.headers
    assert both.metric("sandboxd_module_info", binding="both", abi="wasip2-command-proxy") == 1

"""wasi:http/proxy guests behind a real server: callers who leave, workers that die, failures, deadlines and limits.

The guest is tests/guests/component/proxy.py; its paths say what it does.
"""

import contextlib
import os
import select
import signal
import socket
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.guests.component.build import python_component
from tests.process import tree
from tests.running import RunningServer, component, write_components
from tests.server.http_guests import MIB, WEB, Wire, busy, outcomes
from tests.waiting import BOUND_S, until

pytestmark = pytest.mark.build


def test_a_caller_who_hangs_up_ends_the_guest(web: RunningServer) -> None:
    cancelled = outcomes(web, "web", "cancelled")
    with Wire(web) as wire:
        wire.request("GET", f"{WEB}/stream/generate/{1024 * MIB}")
        assert wire.head()[0] == 200
        assert wire.piece()
    until(lambda: outcomes(web, "web", "cancelled") == cancelled + 1, "the request is counted as cancelled")
    busy(web, 0)
    with web.client() as client:
        assert client.get(WEB).text == "hello from a proxy"


def test_a_caller_who_hangs_up_within_the_request(web: RunningServer) -> None:
    cancelled = outcomes(web, "web", "cancelled")
    with Wire(web) as wire:
        wire.request("POST", f"{WEB}/stream/count", "Content-Length: 1000000")
        wire.sock.sendall(b"x" * 100_000)
        busy(web, 1)
    until(lambda: outcomes(web, "web", "cancelled") == cancelled + 1, "the request is counted as cancelled")
    busy(web, 0)


def test_a_worker_that_dies_while_its_caller_reads_slowly(web: RunningServer) -> None:
    lost = outcomes(web, "web", "worker_lost")
    before = tree.workers(web)
    with Wire(web) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        wire.request("GET", f"{WEB}/stream/generate/{64 * MIB}")
        assert wire.head()[0] == 200
        wire.piece()
        for worker in before:
            # A spare may have ended meanwhile.
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionResetError)):
            wire.rest()
    until(lambda: outcomes(web, "web", "worker_lost") == lost + 1, "the request is counted")
    until(lambda: len(set(tree.workers(web)) - set(before)) == 2, "other workers")
    with web.client() as client:
        assert client.get(WEB).text == "hello from a proxy"


def test_no_worker_outlives_the_front_it_streams_for(tmp_path: Path) -> None:
    guest = component("web", f"file://{python_component('proxy', 'proxy')}")
    resources = write_components(tmp_path / "resources", [guest])
    with RunningServer(resources, "--workers", "1") as server, Wire(server) as wire:
        wire.request("POST", f"{WEB}/stream/then", "Transfer-Encoding: chunked")
        assert wire.head()[0] == 200
        assert wire.piece() == b"first "
        with tree.watched([*tree.workers(server), tree.zygote(server)]) as living:
            server.process.kill()
            assert living(BOUND_S) == []


# guests that fail -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/trap", 502, "wasm error: unreachable"),
        ("/error", 502, "the guest answered with the error internal-error (not today)"),
        ("/silent", 502, "the guest never called response-outparam.set"),
        ("/status/101", 502, "the guest answered with status 101, which ends no request"),
    ],
)
def test_failures_before_the_head_are_answered(client: httpx.Client, path: str, status: int, text: str) -> None:
    response = client.get(WEB + path)
    assert response.status_code == status
    error = response.json()
    assert error["errorCode"] == "ERR_INVOKE_OUTPUT_BINDING"
    assert error["message"].startswith("error invoking HTTP guest web: ")
    assert text in error["message"]


def test_failures_after_the_head_cut_the_response_off(web: RunningServer) -> None:
    trapped, since = outcomes(web, "web", "trapped"), len(web.lines)
    with Wire(web) as wire:
        wire.request("POST", f"{WEB}/stream/then/trap", "Transfer-Encoding: chunked")
        assert wire.head()[0] == 200
        assert wire.piece() == b"first "
        wire.chunk(b"")
        with pytest.raises((EOFError, ConnectionResetError)):
            wire.rest()
    until(lambda: outcomes(web, "web", "trapped") == trapped + 1, "the request is counted")
    (line,) = (line for line in web.lines[since:] if line["message"] == "response cut off")
    # What the caller had, and why there is no more of it.
    assert line["status"] == 200
    assert line["reason"].startswith("error invoking HTTP guest web: ")
    assert "wasm error: unreachable\nwasm stack trace:\n\t" in line["reason"]
    # The HTTP server finds nothing wrong with it.
    assert not [line for line in web.lines[since:] if line.get("level") == "error"], web.text()


@pytest.mark.parametrize("path", ["/short", "/long"])
def test_a_wrong_content_length_is_no_whole_response(client: httpx.Client, path: str) -> None:
    try:
        response = client.get(WEB + path)
    except httpx.RemoteProtocolError:
        return  # cut off
    assert response.status_code == 502  # or known in time


def test_deadlines(web: RunningServer) -> None:
    with Wire(web) as wire:
        # Waits for a body that does not come.
        wire.request("POST", "/v1.0/http/brief/stream/count", "Transfer-Encoding: chunked")
        wire.chunk(b"a")
        assert wire.head()[0] == 504
    with Wire(web) as wire:
        wire.request("POST", "/v1.0/http/brief/stream/then/loop", "Transfer-Encoding: chunked")
        assert wire.head()[0] == 200
        assert wire.piece() == b"first "
        wire.chunk(b"")
        with pytest.raises((EOFError, ConnectionResetError)):
            wire.rest()
    with Wire(web) as wire:
        # Announced and small: it is waited for without a worker.
        wire.request("POST", "/v1.0/http/brief/echo", "Content-Length: 10")
        wire.sock.sendall(b"12345")
        assert wire.head()[0] == 408
    # A client that reads nothing.
    exceeded = outcomes(web, "brief", "deadline_exceeded")
    with Wire(web) as wire:
        wire.request("GET", f"/v1.0/http/brief/stream/generate/{1024 * MIB}")
        until(lambda: outcomes(web, "brief", "deadline_exceeded") == exceeded + 1, "the guest is ended at its deadline")
        busy(web, 0)


def test_limits_of_bodies(web: RunningServer) -> None:
    with web.client() as client:
        assert client.post("/v1.0/http/small/stream/count", content=bytes(MIB)).json() == [MIB, 0]
        refused = client.post("/v1.0/http/small/stream/count", content=bytes(MIB + 1))
        assert refused.status_code == 413
        assert "longer than 1 MiB (httpBodyLimit)" in refused.json()["message"]
        refused = client.post("/v1.0/http/small/stream/count", content=iter([bytes(MIB), b"x"]))
        assert refused.status_code == 413
        assert len(client.get(f"/v1.0/http/small/stream/generate/{MIB}").content) == MIB
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"/v1.0/http/small/stream/generate/{MIB + 1}")
    limit = {"binding": "small", "limit": "httpBodyLimit"}
    until(lambda: web.metric("sandboxd_limits_reached_total", **limit) == 3, "all three are counted")


def test_refusals_reach_callers_that_are_still_sending(web: RunningServer) -> None:
    for path, status in [("/v1.0/http/none/x", 404), (f"{WEB}/trap", 502)]:
        for _ in range(3):
            with web.client() as client:
                assert client.post(path, content=iter([bytes(100_000)] * 20)).status_code == status
    # One that never ends is answered too, or cut off; nothing is left waiting for it.
    with Wire(web) as wire, contextlib.suppress(ConnectionError):
        wire.request("POST", "/v1.0/http/none/x", "Transfer-Encoding: chunked")
        while not select.select([wire.sock], [], [], 0)[0]:
            wire.chunk(bytes(60_000))
        assert wire.head()[0] == 404
    busy(web, 0)

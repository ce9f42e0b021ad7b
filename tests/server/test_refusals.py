"""A full server refuses before it reads, and says so once a second, not once a request."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ENGINES, guest_component
from tests.running import RunningServer, write_components
from tests.waiting import until


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.slow
def test_refused_before_the_body_is_read(engine: str, tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("loop", timeout="5m")])
    environ = {"SANDBOXD_POOL_QUEUE_LIMIT": "0"}
    with (
        RunningServer(resources, "--engine", engine, "--workers", "1", environ=environ) as server,
        socket.create_connection(("127.0.0.1", server.port)) as hanging,
    ):
        body = b'{"operation": "execute"}'
        head = b"POST /v1.0/bindings/loop HTTP/1.1\r\nhost: here\r\n"
        hanging.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        until(lambda: server.metric("sandboxd_pool_workers", state="busy") == 1, "busy")
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as refused:
            refused.sendall(head + b"content-length: 1000000\r\n\r\n")  # and not one byte of it
            answer = refused.recv(4096).lower()
        assert b" 503 " in answer.split(b"\r\n")[0]
        assert b"\r\nretry-after: 1\r\n" in answer
        with ThreadPoolExecutor(8) as callers:
            replies = list(callers.map(lambda _: server.invoke("loop"), range(40)))
        assert {reply.status_code for reply in replies} == {503}
        assert {reply.json()["errorCode"] for reply in replies} == {"ERR_NO_WORKER"}
        with server.client() as client:
            unknown = client.post("/v1.0/bindings/nobody", content=body)
        assert "couldn't find output binding nobody" in unknown.json()["message"]
        assert server.metric("sandboxd_pool_rejected_total", reason="queue_full") == 41
        assert server.metric("sandboxd_requests_total", binding="loop", outcome="rejected") == 41
        hanging.close()
        until(lambda: server.metric("sandboxd_pool_workers", state="idle") == 1, "a worker again")
        server.wait_for(
            lambda line: sum(other.get("count", 0) for other in server.lines if "were refused" in str(other)) == 41
        )
        lines = [line for line in server.lines if "were refused" in str(line)]
        assert len(lines) < 20

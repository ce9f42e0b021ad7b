"""The status page's address with a real server: what it tells, what it hides, and whom it answers."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.conftest import guest_component
from tests.process.cells import Cells
from tests.running import RunningServer, write_components
from tests.server.admin import ACTION, AdminServer
from tests.waiting import BOUND_S, until

SECRET = "a-secret-value"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    names = ("echo", "exit", "trap", "stderr", "loop")
    documents = [guest_component(name, **{"env.KEY": SECRET}) for name in names]
    resources = write_components(tmp_path_factory.mktemp("admin") / "components", documents)
    with AdminServer(resources, "--workers", "2", environ={"SANDBOXD_ADMIN_INVOKE": "true"}) as server:
        yield server


def binding_of(server: AdminServer, name: str) -> dict[str, object]:
    (found,) = (one for one in server.status()["bindings"] if one["name"] == name)
    return found


def test_it_tells_of_requests_as_they_come(server: AdminServer) -> None:
    for _ in range(3):
        assert server.invoke("echo", "x").status_code == 200
    until(lambda: binding_of(server, "echo")["requests"] == 3, "three requests are shown")
    found = binding_of(server, "echo")
    assert (found["ready"], found["okShare"], found["limit"]) == (True, 1.0, 1)  # its share of two
    assert float(str(found["rate"])) > 0
    assert found["cpuSeconds"] > 0
    assert found["cpuPerRunSeconds"] == pytest.approx(found["cpuSeconds"] / 3)
    assert found["cpuUse"] > 0
    assert server.metric("sandboxd_guest_cpu_seconds_total", binding="echo") == pytest.approx(found["cpuSeconds"])
    status = server.status()
    assert status["server"]["state"] == "ready"
    assert sum(status["pools"]["default"]["workers"].values()) == 2 + 2
    assert {worker["state"] for worker in status["workers"]} == {"idle"}
    assert all(worker["rssBytes"] > 1 << 20 for worker in status["workers"])
    assert status["pools"]["default"]["wall"].keys() == {"seccomp", "landlock"}


def test_it_tells_who_holds_a_worker(server: AdminServer) -> None:
    def held() -> list[dict[str, Any]]:
        return [worker for worker in server.status()["workers"] if worker["bindings"] == ["loop"]]

    with socket.create_connection(("127.0.0.1", server.port), timeout=BOUND_S) as caller:
        caller.sendall(
            b'POST /v1.0/bindings/loop HTTP/1.1\r\nhost: a\r\ncontent-length: 23\r\n\r\n{"operation":"execute"}'
        )
        until(lambda: [worker["state"] for worker in held() if worker["forSeconds"] > 0] == ["busy"], "one is held")
    until(lambda: not held(), "who hung up holds it no longer")


def test_failures_have_reason_backtrace_stderr_and_trace(server: AdminServer) -> None:
    def complaints() -> list[dict[str, Any]]:
        """Of this test: others that share the server make guests fail, too."""
        return [note for note in server.status(binding="exit")["failures"] if note["stderr"] == "grumbled"]

    assert server.invoke("trap").status_code == 500
    assert server.invoke("exit", "x", {"args": "3,printed,grumbled"}).status_code == 500
    until(complaints, "the failure is shown")
    (note,) = complaints()
    assert note["outcome"] == "exit_nonzero"
    assert "exit_code(3)" in note["reason"]
    assert "printed" not in json.dumps(server.status())  # what a guest replies is nobody's but the caller's
    note = server.status(binding="trap")["failures"][0]
    assert "unreachable\nwasm stack trace:" in note["reason"]
    assert server.wait_for(lambda line: line.get("trace_id") == note["traceId"])["outcome"] == "trapped"
    assert server.status()["bindings"][-1]["lastFailure"]["outcome"] == "trapped"


def test_no_secret_is_shown(server: AdminServer) -> None:
    shown = server.status(binding="echo")
    assert shown["component"]["env"] == ["KEY"]
    assert SECRET not in json.dumps([shown, server.status()])


def test_the_public_port_shows_nothing_of_it(server: AdminServer) -> None:
    with server.client() as client:
        for path in ("/v1.0/sandboxd/status", "/ui", "/ui/page.js", "/v1.0/sandboxd/log-level"):
            assert client.get(path).status_code == 404


def test_another_sites_name_and_requests_are_refused(server: AdminServer) -> None:
    for path in ("/ui", "/v1.0/sandboxd/status"):
        assert server.admin("GET", path, headers={"host": "evil.example"}).status_code == 421
    call = {"content": '{"data": 1}'}
    assert server.admin("POST", "/v1.0/sandboxd/invoke/echo", **call).status_code == 403
    assert server.admin("PUT", "/v1.0/sandboxd/log-level", content='{"level": "error"}').status_code == 403
    other = {**ACTION, "origin": "http://evil.example"}
    assert server.admin("POST", "/v1.0/sandboxd/invoke/echo", headers=other, **call).status_code == 403


def test_every_answer_has_the_strict_policy(server: AdminServer) -> None:
    for path in ("/ui", "/ui/page.js", "/ui/page.css", "/v1.0/sandboxd/status", "/nothing"):
        headers = server.admin("GET", path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_a_guest_can_be_tried(server: AdminServer) -> None:
    told = server.try_it("echo", {"a": "ä"})
    assert (told["outcome"], json.loads(told["reply"])) == ("completed", {"a": "ä"})
    assert told["times"]["totalMs"] >= told["times"]["guestMs"] > 0
    told = server.try_it("exit", 1, {"args": "4,out,complained"})
    assert (told["outcome"], told["exitCode"], told["stderr"]) == ("exit_nonzero", 4, "complained")
    assert server.try_it("nobody", 1)["outcome"] == "not_found"
    assert "outcome" in server.try_it("echo", 1, {"argv": "no array"})
    for body in ("[]", "{", '{"data": 1, "metadata": {"a": 1}}', '{"other": 1}'):
        reply = server.admin("POST", "/v1.0/sandboxd/invoke/echo", content=body, headers=ACTION)
        assert reply.status_code == 400


@pytest.mark.parametrize(
    "body",
    [b'{"data":NaN}', b'{"data":[1e999]}', b'{"data":-Infinity}', b'{"data":' + b"9" * 5000 + b"}", b"[" * 100_000],
)
def test_what_cannot_be_sent_to_a_guest_is_refused(server: AdminServer, body: bytes) -> None:
    since = len(server.lines)
    reply = server.admin("POST", "/v1.0/sandboxd/invoke/echo", content=body, headers=ACTION)
    assert (reply.status_code, "the body must be" in reply.json()["message"]) == (400, True)
    assert [line for line in server.lines[since:] if "exception" in line] == []


def test_the_command_that_it_shows_does_the_same(server: AdminServer) -> None:
    import shlex
    import subprocess

    told = server.try_it("echo", 'it\'s <b>"quoted"</b> $HOME')
    done = subprocess.run([*shlex.split(told["curl"]), "-s"], capture_output=True, text=True, timeout=BOUND_S)
    assert done.stdout == told["reply"]


def test_the_log_level_changes_at_run_time(server: AdminServer) -> None:
    path = "/v1.0/sandboxd/log-level"
    assert server.admin("GET", path).json() == {"level": "info"}
    assert server.admin("PUT", path, content='{"level": "loud"}', headers=ACTION).status_code == 400
    assert server.admin("PUT", path, content='{"level": "debug"}', headers=ACTION).json() == {"level": "debug"}
    server.invoke("echo", "x")
    server.wait_for(lambda line: line["level"] == "debug" and line["message"] == "guest ran")
    server.process.send_signal(signal.SIGUSR2)
    server.wait_for(lambda line: line["message"] == "the log level is info; it was debug")
    server.process.send_signal(signal.SIGUSR1)
    server.wait_for(lambda line: line["message"] == "the log level is debug; it was info")
    server.process.send_signal(signal.SIGUSR2)
    until(lambda: server.admin("GET", path).json() == {"level": "info"}, "it is as it was")


def test_all_who_look_share_one_reading(server: AdminServer) -> None:
    until(lambda: server.status()["at"] == server.status()["at"], "two have seen the same one")


def test_two_cells_are_one_document(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "components", [guest_component("echo"), guest_component("trap")])
    environ = {"SANDBOXD_ADMIN_LISTEN": "127.0.0.1:0", "DAPR_API_TOKEN": "t0ken"}
    with Cells(resources, "--workers", "2", environ=environ) as server:
        url = server.wait_for(lambda line: line.get("event") == "admin")["url"].removesuffix("/ui")
        token = {"dapr-api-token": "t0ken"}
        with httpx.Client(base_url=server.base_url, trust_env=False, verify=False, headers=token, timeout=60) as client:
            for _ in range(6):
                body = b'{"operation":"execute","data":"x"}'
                assert (
                    client.post("/v1.0/bindings/echo", content=body, headers={"connection": "close"}).status_code == 200
                )

        def get(path: str, headers: dict[str, str] | None) -> httpx.Response:
            with httpx.Client(base_url=url, trust_env=False, verify=False, headers=headers, timeout=60) as client:
                return client.get(path)

        assert get("/v1.0/sandboxd/status", None).status_code == 401
        assert get("/ui", None).status_code == 200
        until(lambda: get("/v1.0/sandboxd/status", token).json()["bindings"][0]["requests"] == 6, "all are counted")

        def of_both() -> bool:
            status = get("/v1.0/sandboxd/status", token).json()
            cells = status["server"]["cells"], status["server"]["cellsReady"]
            return (*cells, {worker["cell"] for worker in status["workers"]}) == (2, 2, {0, 1})

        until(of_both, "both have told of themselves in time")
        with httpx.Client(base_url=url, trust_env=False, verify=False, timeout=60) as client:
            client.put("/v1.0/sandboxd/log-level", content=b'{"level": "debug"}', headers={**token, **ACTION})
        for cell in (0, 1):
            server.wait_for(lambda line, cell=cell: line.get("event") == "log_level" and line.get("cell") == cell)


def test_a_port_that_is_taken(server: AdminServer, tmp_path: Path) -> None:
    """It was asked for, so that the server does not start without it."""
    resources = write_components(tmp_path / "components", [guest_component("echo")])
    taken = server.admin_url.removeprefix("http://")
    refused = RunningServer(resources, environ={"SANDBOXD_ADMIN_LISTEN": taken}, wait=False, bind=True)
    try:
        refused.wait_for(lambda line: f"cannot listen for the status page on {taken}" in line.get("message", ""))
        assert refused.process.wait(BOUND_S) == 66
    finally:
        refused.stop()

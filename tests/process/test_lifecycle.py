"""The start and the end of a server: exit statuses, drains, and no process left behind."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest

from hostfuncs import native
from tests.conftest import ENGINES, guest_component
from tests.process import tree
from tests.running import PATIENT, RunningServer, component, listening_socket, write_components
from tests.waiting import BOUND_S, until


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents = [
        guest_component("echo"),
        guest_component("sleep"),
        guest_component("loop", timeout="30s"),
        guest_component("brief", "loop", timeout="3s"),
    ]
    return write_components(tmp_path_factory.mktemp("resources"), documents)


def busy(server: RunningServer, count: int) -> None:
    until(lambda: server.metric("sandboxd_pool_workers", state="busy") == count, f"{count} busy workers")


def not_ready(client: httpx.Client) -> str:
    """Ask /readyz until it says no, and return what it says then."""
    answers: list[httpx.Response] = []

    def no() -> bool:
        answers.append(client.get("/readyz"))
        return answers[-1].status_code == 503

    until(no, "not ready")
    return answers[-1].text


def last_answer(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask until an answer closes its connection."""
    answers: list[httpx.Response] = []

    def closed() -> bool:
        answers.append(ask())
        return answers[-1].headers.get("connection") == "close"

    until(closed, "an answer that closes its connection")
    return answers[-1]


def start(*options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "sandboxd", "serve", "--port", "0", *options],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=180,
    )


# exit statuses --------------------------------------------------------------------------------------------------------


def test_wrong_settings(tmp_path: Path) -> None:
    config = tmp_path / "sandboxd.yaml"
    config.write_text("pool:\n  wrokers: 2\n")
    done = start("--config", str(config))
    assert done.returncode == 64
    assert "wrokers" in done.stderr
    assert "workers" in done.stderr


def test_a_component_that_cannot_be_loaded(tmp_path: Path) -> None:
    document = guest_component("echo").replace(str(Path("bin") / "echo.wasm"), "missing.wasm")
    resources = write_components(tmp_path / "resources", [document])
    done = start("--resources-path", str(resources))
    assert done.returncode == 65
    assert "missing.wasm" in done.stderr


@pytest.mark.parametrize("wanted", [True, False])
def test_the_log_says_in_what_the_host_functions_run(resources: Path, wanted: bool) -> None:
    with RunningServer(resources, environ={"SANDBOXD_WASM_NATIVE_FUNCTIONS": json.dumps(wanted)}) as server:
        line = server.wait_for(lambda line: line.get("event") == "native")["message"]
    assert ("in C" if wanted and native.find() else "in Python") in line


def test_a_port_in_use(resources: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start("--resources-path", str(resources), "--port", str(port))
    assert done.returncode == 66
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_workers_that_cannot_start_make_it_not_ready_and_then_end_it(resources: Path) -> None:
    with RunningServer(resources, "--workers", "2") as server, server.client() as client:
        assert client.get("/readyz").status_code == 200
        zygote = tree.zygote(server)
        # Whatever it forks from now on can map nothing: not the status page, not a thread's stack.
        size = int(Path(f"/proc/{zygote}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(zygote, resource.RLIMIT_AS, (size, size))
        for worker in tree.workers(server):
            os.kill(worker, signal.SIGKILL)
        said = not_ready(client)
        assert re.fullmatch(
            r"not ready: workers\nwaiting: a worker starts(; the last one, \d+, [^\n]{5,200})?, for \d+ s", said
        ), said
        with tree.watched(server.processes()) as gone:
            assert server.process.wait(BOUND_S) == 67
            assert gone(BOUND_S) == []
        assert "workers in a row failed to start" in server.text()


def test_a_zygote_out_of_descriptors_says_so_and_serves_on(resources: Path) -> None:
    with RunningServer(resources, "--workers", "2") as server:
        zygote = tree.zygote(server)
        soft, hard = resource.prlimit(zygote, resource.RLIMIT_NOFILE)
        resource.prlimit(zygote, resource.RLIMIT_NOFILE, (4, hard))
        (victim, other) = tree.workers(server)
        os.kill(victim, signal.SIGKILL)
        server.wait_for(lambda line: "could not be forked" in str(line))
        assert server.invoke("echo", 1).content == b"1"
        resource.prlimit(zygote, resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: server.metric("sandboxd_pool_workers", state="idle") == 2, "two workers again")
        assert tree.zygote(server) == zygote
        assert other in tree.workers(server)


# the death of others --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_without_its_zygote_it_finishes_what_runs_and_ends(
    resources: Path, threads: ThreadPoolExecutor, engine: str
) -> None:
    with RunningServer(resources, "--workers", "2", "--engine", engine) as server, server.client() as client:
        call = threads.submit(server.invoke, "sleep", None, {"args": "6000"})
        busy(server, 1)
        assert client.get("/readyz").status_code == 200
        with tree.watched(server.processes()) as gone:
            os.kill(tree.zygote(server), signal.SIGKILL)
            server.wait_for(lambda line: "the zygote process died" in str(line))
            assert last_answer(lambda: client.get("/readyz")).status_code == 503
            reply = call.result(BOUND_S)
            assert (reply.status_code, reply.content[:4]) == (200, b"1 0 ")
            assert server.process.wait(BOUND_S) == 68
            assert gone(BOUND_S) == []


@pytest.mark.slow  # the pool waits 10 s for a worker that it has killed to be reaped
def test_a_zygote_that_hangs_is_noticed_when_it_is_needed(resources: Path) -> None:
    with RunningServer(resources, "--workers", "1") as server, server.client() as client:
        (worker,) = tree.workers(server)
        everything = server.processes()
        tree.stop(tree.zygote(server))
        with tree.watched(everything) as gone:
            os.kill(worker, signal.SIGKILL)
            waits = not_ready(client)
            assert re.search(r"waiting: a worker starts.*, for \d+ s", waits), waits
            server.wait_for(lambda line: "was killed and has not been reaped" in str(line))
            server.wait_for(lambda line: "the zygote process died" in str(line))
            assert server.process.wait(BOUND_S) == 68
            assert gone(BOUND_S) == []


@pytest.mark.parametrize("how", ["idle", "computing", "stopped"])
def test_nothing_outlives_a_front_that_is_killed(resources: Path, threads: ThreadPoolExecutor, how: str) -> None:
    with RunningServer(resources, "--workers", "3") as server:
        if how == "computing":
            for _ in range(3):
                threads.submit(server.invoke, "loop")
            busy(server, 3)
        elif how == "stopped":
            tree.stop(tree.workers(server)[0])
        everything = server.processes()
        assert len(everything) == 5
        with tree.watched(everything) as gone:
            server.process.kill()
            assert gone(BOUND_S) == []
        server.process.wait(BOUND_S)


def test_nothing_outlives_a_server_stopped_while_it_loads(tmp_path: Path, resources: Path) -> None:
    with RunningServer(resources, environ={"SANDBOXD_CACHE_FOLDER": str(tmp_path / "cold")}, wait=False) as server:
        server.wait_for(lambda line: line.get("event") == "listening")
        with tree.watched(server.processes()) as gone:
            assert server.terminate() == 0
            assert gone(BOUND_S) == []
        assert "Traceback" not in server.text()


def test_before_its_components_are_loaded_callers_are_told_to_come_again(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/guest.wasm"
        resources = write_components(tmp_path / "resources", [component("late", url)])
        process = subprocess.Popen(
            [sys.executable, "-m", "sandboxd", "serve", "--port", "0", "--resources-path", str(resources)],
            env=os.environ | {"SANDBOXD_LOGGING_FORMAT": "json", "SANDBOXD_LISTEN_WHEN_READY": "false"},
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            events = (json.loads(line) for line in process.stderr)
            address = next(event["address"] for event in events if event.get("event") == "listening")
            with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=BOUND_S) as client:
                reply = client.post("/v1.0/bindings/late", content=b'{"operation":"execute"}')
                assert reply.status_code == 503, reply.text
                assert reply.headers["retry-after"]
                assert reply.json()["message"] == "error invoking output binding late: binding late is still loading"
                assert client.get("/readyz").text.startswith("not ready: components\nwaiting: ")
            process.terminate()
            assert process.wait(BOUND_S) == 0
        finally:
            process.kill()
            process.wait(BOUND_S)
            if process.stderr is not None:
                process.stderr.close()


# drains ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_sigterm_lets_a_slow_request_finish(resources: Path, threads: ThreadPoolExecutor, engine: str) -> None:
    with RunningServer(resources, "--workers", "2", "--engine", engine) as server:
        call = threads.submit(server.invoke, "sleep", None, {"args": "6000"})
        busy(server, 1)
        with tree.watched(server.processes()) as gone:
            server.process.send_signal(signal.SIGTERM)
            server.wait_for(lambda line: line.get("event") == "draining")
            assert not call.done()
            reply = call.result(BOUND_S)
            assert (reply.status_code, reply.content[:4]) == (200, b"1 0 ")
            assert server.process.wait(BOUND_S) == 0
            assert gone(BOUND_S) == []
        with pytest.raises(httpx.ConnectError):
            server.invoke("echo", 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_after_the_drain_deadline_callers_are_told(resources: Path, threads: ThreadPoolExecutor, engine: str) -> None:
    with RunningServer(
        resources, "--workers", "1", "--engine", engine, environ={"SANDBOXD_DRAIN_TIMEOUT": "200ms"}
    ) as server:
        running = threads.submit(server.invoke, "loop")
        busy(server, 1)
        waiting = threads.submit(server.invoke, "loop")
        until(lambda: server.metric("sandboxd_pool_queue_depth") == 1, "one waits")
        assert server.terminate() == 0
        told = running.result(BOUND_S)
        assert told.status_code == 500
        assert "module closed with context canceled" in told.json()["message"]
        assert "the server shut down before the invocation was over" in told.text
        refused = waiting.result(BOUND_S)
        assert refused.status_code == 503
        assert "the server is shutting down" in refused.json()["message"]
        assert refused.headers["retry-after"]
        assert "the drain deadline passed" in server.text()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_that_stood_still_at_its_deadline_answers_before_it_cuts(
    resources: Path, threads: ThreadPoolExecutor, engine: str
) -> None:
    # As on a machine that is suspended, or has far too much to do: every time that counts is over at once.
    environ = {"SANDBOXD_DRAIN_TIMEOUT": "200ms"}
    with RunningServer(resources, "--workers", "1", "--engine", engine, environ=environ) as server:
        running = threads.submit(server.invoke, "loop")
        busy(server, 1)
        waiting = threads.submit(server.invoke, "loop")
        until(lambda: server.metric("sandboxd_pool_queue_depth") == 1, "one waits")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda line: line.get("event") == "draining")
        server.process.send_signal(signal.SIGSTOP)
        over = time.monotonic() + 3
        until(lambda: time.monotonic() > over, "the drain time and all that is added to it are over")
        server.process.send_signal(signal.SIGCONT)
        told = running.result(BOUND_S)
        assert (told.status_code, waiting.result(BOUND_S).status_code) == (500, 503)
        assert "the server shut down before the invocation was over" in told.text
        assert server.process.wait(BOUND_S) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_kept_connection_learns_of_the_end_from_an_answer(resources: Path, engine: str) -> None:
    options = ("--workers", "1", "--engine", engine)
    with RunningServer(resources, *options, environ=PATIENT) as server, server.client() as client:
        body = b'{"operation":"execute","data":1}'
        assert "close" not in client.post("/v1.0/bindings/echo", content=body).headers.get("connection", "")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda line: line.get("event") == "draining")
        last = last_answer(lambda: client.post("/v1.0/bindings/echo", content=body))
        assert (last.status_code, last.content) == (200, b"1")
        with pytest.raises(httpx.ConnectError):
            client.post("/v1.0/bindings/echo", content=body)
        assert server.process.wait(BOUND_S) == 0


def test_a_stopped_zygote_does_not_keep_the_server_from_ending(resources: Path) -> None:
    with RunningServer(resources, "--workers", "2") as server, tree.watched(server.processes()) as gone:
        for worker in tree.workers(server):
            tree.stop(worker)
        tree.stop(tree.zygote(server))
        assert server.terminate() == 0
        assert gone(BOUND_S) == []


def test_an_inherited_descriptor_that_is_no_socket(resources: Path) -> None:
    with listening_socket() as held:
        number = held.fileno()
    done = start("--resources-path", str(resources), "--fd", str(number))
    assert done.returncode == 66
    assert f"cannot listen on descriptor {number}" in done.stderr

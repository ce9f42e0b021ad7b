"""Reloads and restarts of servers with a binding that has a pool of its own (`isolation: own`).

What is asked: nobody who waits for a worker is told that the binding is not there because it moves between the pools.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.process import tree
from tests.process.test_reload import Load, hangup
from tests.running import PATIENT, RunningServer, listening_socket, write_components
from tests.waiting import BOUND_S, until

LOOP = b'POST /v1.0/bindings/loop HTTP/1.1\r\nHost: x\r\nContent-Length: 23\r\n\r\n{"operation":"execute"}'
VARIABLES = {"SANDBOXD_RELOAD_WATCH": "false"}


def documents(isolation: str) -> list[str]:
    """One binding that keeps the only worker busy, and two that move."""
    alone = {"isolation": isolation, "maxConcurrency": "1"}
    return [
        guest_component("sleep"),
        guest_component("echo", **alone),
        guest_component("loop", timeout="30s", **alone),
    ]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


def waiting(server: RunningServer, count: int) -> None:
    until(lambda: server.metric("sandboxd_pool_queue_depth", pool="default") == count, f"{count} in the queue")


def test_who_waits_for_the_shared_pool_moves_with_its_binding(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    resources = write_components(tmp_path / "resources", documents("shared"))
    with RunningServer(resources, "--workers", "1", environ=VARIABLES) as server:
        held = threads.submit(server.invoke, "sleep", None, {"args": "30000"})
        until(lambda: server.metric("sandboxd_pool_workers", state="busy") == 1, "it runs")
        (busy,) = tree.workers(server)
        moved = [threads.submit(server.invoke, "echo", number) for number in range(5)]
        waiting(server, 5)
        write_components(resources, documents("own"))
        hangup(server)
        answers = [call.result(BOUND_S) for call in moved]
        assert [answer.status_code for answer in answers] == [200] * 5, [answer.text for answer in answers]
        assert sorted(answer.json() for answer in answers) == list(range(5))
        assert not held.done()
        os.kill(busy, signal.SIGKILL)
        held.result(BOUND_S)


def test_who_moved_and_hangs_up_frees_the_worker(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    resources = write_components(tmp_path / "resources", documents("shared"))
    with RunningServer(resources, "--workers", "1", environ=VARIABLES) as server:
        held = threads.submit(server.invoke, "sleep", None, {"args": "30000"})
        until(lambda: server.metric("sandboxd_pool_workers", state="busy") == 1, "it runs")
        (busy,) = tree.workers(server)
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.sendall(LOOP)
            waiting(server, 1)
            write_components(resources, documents("own"))
            hangup(server)
            until(lambda: server.metric("sandboxd_pool_workers", pool="own:loop", state="busy") == 1, "it runs there")
        until(
            lambda: server.metric("sandboxd_worker_exits_total", pool="own:loop", reason="cancelled") == 1,
            "the worker of who hung up is killed",
        )
        os.kill(busy, signal.SIGKILL)
        held.result(BOUND_S)


def test_who_waits_for_the_own_pool_is_served_by_it(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    resources = write_components(
        tmp_path / "resources", [guest_component("sleep", isolation="own", maxConcurrency="1")]
    )
    with RunningServer(resources, "--workers", "1", environ=VARIABLES) as server:
        held = threads.submit(server.invoke, "sleep", None, {"args": "30000"})
        until(lambda: server.metric("sandboxd_pool_workers", pool="own:sleep", state="busy") == 1, "it runs")
        former = tree.workers(server)
        moved = threads.submit(server.invoke, "sleep", None, {"args": "1"})
        until(lambda: server.metric("sandboxd_pool_queue_depth", pool="own:sleep") == 1, "one in the queue")
        write_components(resources, [guest_component("sleep")])
        hangup(server)
        for pid in former:
            with contextlib.suppress(ProcessLookupError):  # the reload may have ended an idle one already
                os.kill(pid, signal.SIGKILL)
        assert held.result(BOUND_S).status_code >= 500
        assert moved.result(BOUND_S).status_code == 200


@pytest.mark.slow  # two servers with four zygotes
def test_a_rolling_restart_loses_nothing(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", documents("own"))
    options = ("--workers", "2")
    with listening_socket() as shared, ExitStack() as servers:
        former = servers.enter_context(RunningServer(resources, *options, listener=shared, environ=PATIENT))
        with Load(former.base_url, keep=True) as load:
            servers.enter_context(RunningServer(resources, *options, listener=shared))
            load.more(50)
            assert former.terminate() == 0
            load.more(50)
        assert load.wrong == []

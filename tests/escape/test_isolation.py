"""`isolation: own`: the secrets of such a binding are in no process that runs another binding's guest.

Memory is read through /proc/PID/mem, as root may: what a worker has in its memory, code that has taken it over has.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.escape.test_broker import memory
from tests.process import tree
from tests.running import RunningServer, write_components
from tests.waiting import BOUND_S, until

SECRET = "kronjuwelen-einer-bindung"
SHARED_SECRET = "was-alle-haben"

pytestmark = [
    pytest.mark.slow,  # each test starts servers of its own
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of these processes"),
]


def documents(isolation: str) -> list[str]:
    """Two bindings that share workers, and one that does or does not."""
    return [
        guest_component("echo"),
        guest_component("upper", **{"env.KEY": SHARED_SECRET}),
        guest_component("env", **{"env.KEY": SECRET, "isolation": isolation, "maxConcurrency": "1"}),
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    resources = write_components(tmp_path_factory.mktemp("isolation") / "resources", documents("own"))
    # A reload for each SIGHUP, and none besides for the files that were written before it.
    with RunningServer(resources, "--workers", "2", environ={"SANDBOXD_RELOAD_WATCH": "false"}) as server:
        server.resources = resources  # type: ignore[attr-defined]
        yield server


def holders(server: RunningServer, secret: str) -> set[int]:
    """The zygotes and workers that have the secret in their memory."""
    below = {*tree.zygotes(server), *tree.workers(server)}
    return {pid for pid in below if secret.encode() in memory(pid)}


def families(server: RunningServer) -> list[set[int]]:
    """Each zygote with its workers."""
    return [{zygote, *tree.children(zygote)} for zygote in tree.zygotes(server)]


def test_the_secret_is_in_its_own_processes_only(server: RunningServer) -> None:
    assert SECRET in server.invoke("env", "x").text
    assert server.invoke("upper", "abc").text == '"ABC"'
    shared, own = sorted(families(server), key=len, reverse=True)
    assert (len(shared), len(own)) == (3, 2)  # with maxConcurrency 1 it has one worker
    assert holders(server, SECRET) == own
    assert holders(server, SHARED_SECRET) == shared


def test_each_pool_has_metrics(server: RunningServer) -> None:
    assert server.metric("sandboxd_pool_workers_limit", pool="default") == 2
    assert server.metric("sandboxd_pool_workers_limit", pool="own:env") == 1
    assert server.metric("sandboxd_worker_starts_total", pool="own:env") >= 1


def test_a_worker_that_dies_is_replaced(server: RunningServer) -> None:
    (own,) = (family for family in families(server) if len(family) == 2)
    (worker,) = own & set(tree.workers(server))
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker not in tree.workers(server), "the end of the worker")
    assert SECRET in server.invoke("env", "x").text


def test_a_reload_moves_a_binding_between_the_pools(server: RunningServer) -> None:
    resources: Path = server.resources  # type: ignore[attr-defined]
    for isolation, zygotes in (("shared", 1), ("own", 2), ("own", 2)):
        since = len(server.lines)
        with tree.watched([*tree.zygotes(server), *tree.workers(server)]) as gone:
            write_components(resources, documents(isolation))
            server.process.send_signal(signal.SIGHUP)
            server.wait_for(lambda line: line.get("event") == "reloaded", since=since)
            assert gone(BOUND_S) == []
        assert len(tree.zygotes(server)) == zygotes
        assert SECRET in server.invoke("env", "x").text
        assert server.invoke("echo", "abc").text == '"abc"'
    _, own = sorted(families(server), key=len, reverse=True)
    assert holders(server, SECRET) == own


def test_a_reload_that_fails_changes_nothing(server: RunningServer) -> None:
    resources: Path = server.resources  # type: ignore[attr-defined]
    before, since = tree.zygotes(server), len(server.lines)
    write_components(resources, [*documents("own"), guest_component("args", isolation="elsewhere")])
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda line: line.get("event") == "reload_failed", since=since)
    assert tree.zygotes(server) == before
    assert SECRET in server.invoke("env", "x").text

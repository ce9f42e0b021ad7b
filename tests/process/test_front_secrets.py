"""Secrets that another process of the server's user could read, and processes that could outlive it. No wall."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.errors import ExitCode
from tests.conftest import guest_component
from tests.escape.test_escape import HOOK
from tests.process import tree
from tests.running import RunningServer, write_components
from tests.waiting import BOUND_S

UNPRIVILEGED = Path(__file__).parent / "unprivileged"

READER = """
import os, sys
for pid in map(int, sys.argv[1:]):
    for what, flags in (("environ", os.O_RDONLY), ("mem", os.O_RDWR)):
        try:
            os.open(f"/proc/{pid}/{what}", flags)
            print("opened", end=" ")
        except PermissionError:
            print("refused", end=" ")
"""


@pytest.fixture(scope="module", params=[1, 2], ids=["one cell", "two cells"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    resources = write_components(tmp_path_factory.mktemp("resources"), [guest_component("echo")])
    environ = {"PYTHONPATH": str(UNPRIVILEGED), "SANDBOXD_POOL_WALL": "off", "DAPR_API_TOKEN": "s3cret"}
    environ["SANDBOXD_CELLS"] = str(request.param)
    ready = "ready" if request.param == 1 else "cells_ready"
    with RunningServer(resources, "--workers", "2", environ=environ, ready=ready) as running:
        yield running


def test_no_process_of_the_server_is_open_to_its_own_user(server: RunningServer) -> None:
    pids = server.processes()
    assert len(pids) >= 4
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, pids)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "PYTHONPATH": str(UNPRIVILEGED)},
        check=True,
    )
    assert done.stdout.split() == ["refused", "refused"] * len(pids)


def test_the_token_is_in_the_environment_of_no_child(server: RunningServer) -> None:
    """The tests may read it: they have the right to trace."""
    children = [pid for pid in server.processes() if pid != server.process.pid]
    assert not [pid for pid in children if b"s3cret" in Path(f"/proc/{pid}/environ").read_bytes()]
    with server.client() as client:
        answers = [
            client.post("/v1.0/bindings/echo", content=b'{"operation":"execute"}', headers=headers).status_code
            for headers in ({}, {"dapr-api-token": "s3cret"})
        ]
    assert answers == [401, 200]


@pytest.fixture
def without_wall(tmp_path: Path) -> Iterator[RunningServer]:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    environ = {"PYTHONPATH": str(HOOK), "SANDBOXD_POOL_WALL": "off"}
    with RunningServer(resources, "--workers", "1", environ=environ) as running:
        yield running


def forked(server: RunningServer) -> int:
    """A process that escaped code has forked from a worker, in a session of its own."""
    code = (
        "pid = os.fork()\nif not pid:\n    os.setsid()\n    select.select([], [], [], 600)\n    os._exit(0)\nprint(pid)"
    )
    return int(server.invoke("echo", f"#!escaped\n{code}").text)


def test_what_escaped_code_has_forked_ends_with_the_server(without_wall: RunningServer) -> None:
    escaped = forked(without_wall)
    with tree.watched([escaped]) as gone:
        assert without_wall.terminate() == 0
        assert gone(BOUND_S) == []
    without_wall.wait_for(lambda line: line.get("event") == "orphans")


def test_what_a_lost_zygote_leaves_ends_with_the_server(without_wall: RunningServer) -> None:
    escaped = forked(without_wall)
    everybody = [pid for pid in without_wall.processes() if pid != without_wall.process.pid]
    with tree.watched([*everybody, escaped]) as gone:
        os.kill(tree.zygote(without_wall), 9)
        assert without_wall.process.wait(BOUND_S) == ExitCode.ZYGOTE_LOST
        assert gone(BOUND_S) == []


def test_children_from_before_are_left_alone(tmp_path: Path) -> None:
    """A script may start something and then become the server."""
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    script = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'sandboxd', 'serve', '--port', '0', *sys.argv[1:]])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "--resources-path", str(resources)],
        stderr=subprocess.PIPE,
        env={**os.environ, "SANDBOXD_LOGGING_FORMAT": "json"},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line).get("event") == "ready":
            break
    process.terminate()
    assert process.wait(BOUND_S) == 0
    process.stderr.close()
    child = int((tmp_path / "pid").read_text())
    assert tree.state(child) == "S"
    os.kill(child, 9)

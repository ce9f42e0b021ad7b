"""`sandboxd top` and `sandboxd invoke` against a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.running import write_components
from tests.server.admin import AdminServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    documents = [guest_component(name) for name in ("echo", "exit", "args", "env")]
    resources = write_components(tmp_path_factory.mktemp("looking") / "components", documents)
    with AdminServer(resources, "--workers", "2") as server:
        yield server


def sandboxd(*words: str, given: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "sandboxd", *words],
        capture_output=True,
        text=True,
        timeout=180,
        input=given,
        env={**os.environ, **environ},
    )


def test_top_once(server: AdminServer) -> None:
    pytest.importorskip("rich", reason="needs rich: pip install 'sandboxd[top]'")
    assert server.invoke("exit", "x", {"argv": '["3", "out", "\\u001b[31mred"]'}).status_code == 500
    shown = sandboxd("top", "--once", server.admin_url, COLUMNS="200")
    assert shown.returncode == 0, shown.stderr
    assert "READY" in shown.stdout
    rows = {line.split()[0]: line for line in shown.stdout.splitlines() if line}
    assert {"echo", "exit", "args", "env"} <= rows.keys()
    assert "0/1" in rows["echo"]  # none of its share of two workers
    assert "exit_code(3)" in rows["exit"]
    assert "\x1b" not in shown.stdout


def test_top_for_scripts(server: AdminServer) -> None:
    shown = sandboxd("top", "--once", "--json", server.page_url)
    assert [binding["name"] for binding in json.loads(shown.stdout)["bindings"]] == ["args", "echo", "env", "exit"]


def test_top_without_a_server_and_at_another_address(server: AdminServer) -> None:
    lost = sandboxd("top", "--once", "--json", "http://127.0.0.1:1")
    assert (lost.returncode, lost.stdout) == (1, "")
    assert "no answer from http://127.0.0.1:1: Connection refused" in lost.stderr
    other = sandboxd("top", "--once", "--json", server.base_url)
    assert other.returncode == 1
    assert sandboxd("top", "--once", "http://").returncode == 2


def test_invoke(server: AdminServer, tmp_path: Path) -> None:
    url = ("--url", server.base_url)
    for data in ('{"a": 1}', "no JSON"):
        called = sandboxd("invoke", *url, "echo", "--data", data)
        assert called.returncode == 0, called.stderr
        assert json.loads(called.stdout) == (json.loads(data) if data.startswith("{") else data)
    assert sandboxd("invoke", *url, "echo", "--data", "-", given="[1]").stdout == "[1]"
    (tmp_path / "data.json").write_text("[2]")
    assert sandboxd("invoke", *url, "echo", "--data", f"@{tmp_path}/data.json").stdout == "[2]"
    assert "a b,c" in sandboxd("invoke", *url, "args", "--args", "a b,c").stdout
    assert "COLOUR=red" in sandboxd("invoke", *url, "env", "--env", "COLOUR=red").stdout


def test_invoke_that_fails(server: AdminServer) -> None:
    url = ("--url", server.base_url)
    failed = sandboxd("invoke", *url, "exit", "--args", "7")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "module closed with exit_code(7)" in failed.stderr
    assert "couldn't find output binding nobody" in sandboxd("invoke", *url, "nobody").stderr
    assert sandboxd("invoke", *url, "exit", "--env", "novalue").returncode == 2

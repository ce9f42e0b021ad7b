"""Mounts and the folder in memory for a component of WASI 0.2, behind a real server: what changes is seen.

The guest counts the lines of a folder's files, writes the sum into another and reads it back.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import guests
from tests.guests.component.build import command_component
from tests.guests.programs import FILES, HANDLER, PROGRAMS
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build

(HANDLES_FILES,) = (program for program in PROGRAMS if program.abi == HANDLER)


@pytest.fixture(scope="module")
def guest() -> Path:
    return command_component(guests.path("files-rust"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mounts")
    (folder / "data").mkdir()
    (folder / "data" / "file").write_text("1\n")
    (folder / "work").mkdir()
    (folder / "config" / "1").mkdir(parents=True)
    (folder / "config" / "1" / "key").write_text("1\n2\n")
    (folder / "config" / "..data").symlink_to("1")
    (folder / "files").mkdir()
    for name, text in FILES.items():
        (folder / "files" / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, guest: Path) -> Iterator[RunningServer]:
    write_components(folder, documents(guest, "data"))
    with RunningServer(folder, "--workers", "1") as running:
        yield running


def documents(guest: Path, source: str) -> list[str]:
    mounts = [
        {"source": source, "target": "/data"},
        {"source": "config/..data", "target": "/config"},
        {"source": "work", "target": "/work", "readOnly": False},
    ]
    return [
        component("lines", f"file://{guest}", mounts=json.dumps(mounts), tmp='{"target": "/tmp", "size": "1Ki"}'),
        component("bare", f"file://{guest}"),
        component(
            "handler",
            f"file://{HANDLES_FILES.file()}",
            mounts='[{"source": "files", "target": "/data"}]',
            tmp='{"target": "/tmp"}',
        ),
    ]


def lines(server: RunningServer, source: str, target: str = "/tmp", binding: str = "lines") -> str:
    reply = server.invoke(binding, metadata={"argv": json.dumps([source, target])})
    return reply.text if reply.status_code == 200 else str(reply.json()["message"])


def test_it_reads_and_writes(server: RunningServer, folder: Path) -> None:
    assert lines(server, "/data") == "1\n"
    assert lines(server, "/tmp") == "0\n"  # nothing is left of the run before
    assert lines(server, "/data", "/work") == "1\n"
    assert (folder / "work" / "rust").read_text() == "1\n"
    assert "exit_code(1)" in lines(server, "/data", "/data")
    assert "exit_code(1)" in lines(server, "/data", binding="bare")


def test_an_http_handler_finds_them(server: RunningServer) -> None:
    """A row of the table of docs/guests.md."""
    path = HANDLES_FILES.args[0]
    with server.client() as client:
        for _ in range(2):  # the second finds nothing of the first in the folder in memory
            reply = client.get(f"/v1.0/http/handler{path}")
            assert (reply.status_code, reply.content) == (200, HANDLES_FILES.stdout), reply.text
        assert client.get(f"/v1.0/http/handler{path}".replace("data", "none")).status_code == 403


def test_a_changed_link_is_followed_by_the_next_run(server: RunningServer, folder: Path) -> None:
    assert lines(server, "/config") == "2\n"
    config = folder / "config"
    (config / "2").mkdir()
    (config / "2" / "key").write_text("1\n2\n3\n")
    # As Kubernetes changes a ConfigMap.
    (config / "..fresh").symlink_to("2")
    (config / "..fresh").replace(config / "..data")
    assert lines(server, "/config") == "3\n"


def test_a_reload_brings_another_source(server: RunningServer, folder: Path, guest: Path) -> None:
    (folder / "later").mkdir()
    (folder / "later" / "file").write_text("1\n2\n3\n4\n")
    since = len(server.lines)
    write_components(folder, documents(guest, "later"))
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda line: line.get("event") == "reloaded", since=since)
    assert lines(server, "/data") == "4\n"


def test_a_source_that_is_replaced_is_noticed(server: RunningServer, folder: Path) -> None:
    """Landlock knows the former folder, so workers are started anew. Neither a signal nor a component asks for it."""
    since = len(server.lines)
    fresh = folder / "fresh"
    fresh.mkdir()
    (fresh / "file").write_text("1\n" * 5)
    os.rename(folder / "later", folder / "former")
    os.rename(fresh, folder / "later")
    server.wait_for(lambda line: line.get("event") == "reloaded", since=since)
    assert lines(server, "/data") == "5\n"
    # What changes within it is seen without.
    (folder / "later" / "second").write_text("6\n")
    assert lines(server, "/data") == "6\n"


def test_the_command_line(guest: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("1\n")
    options = ["--dir", f"{data}::/data", "--dir", f"{tmp_path}::/out:rw"]
    command = [sys.executable, "-m", "sandboxd", "run", *options, str(guest), "--", "/data", "/out"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"1\n"), done.stderr
    assert (tmp_path / "rust").read_text() == "1\n"
    done = subprocess.run(
        [*command[:-1], "/data"], capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, b"Read-only" in done.stderr) == (1, True), done.stderr

"""Files of guests behind a real server, its wall included: mounts, a folder in memory, reloads and changed links."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hostfuncs
from tests import guests
from tests.running import RunningServer, component, write_components

pytestmark = pytest.mark.build

LOOK = """
import json, os, sys
out = {}
def attempt(name, call):
    try:
        out[name] = call()
    except OSError as error:
        out[name] = error.errno
"""
"""Begins the scripts of guests: what a call gives, or its error number."""


def script(*attempts: str) -> dict[str, str]:
    lines = [f"attempt({line!r}, lambda: {line})" for line in attempts]
    code = "\n".join((LOOK, *lines, "print(json.dumps(out))"))
    return {"argv": json.dumps(["-I", "-c", code])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mounts")
    (folder / "data").mkdir()
    (folder / "data" / "file").write_text("of the host")
    (folder / "data" / "out").symlink_to("../secret.yaml")
    (folder / "work").mkdir()
    (folder / "config" / "1").mkdir(parents=True)
    (folder / "config" / "1" / "key").write_text("one")
    (folder / "config" / "..data").symlink_to("1")
    (folder / "config" / "key").symlink_to("..data/key")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    python = f"file://{guests.cpython312()}"
    mounts = [
        {"source": "data", "target": "/data"},
        {"source": "work", "target": "/scratch", "readOnly": False},
        {"source": "config", "target": "/config"},
        {"source": "config/..data", "target": "/direct"},
    ]
    tmp = {"target": "/tmp", "size": "64Ki", "files": 10}
    documents = [
        component("mounted", python, mounts=json.dumps(mounts), tmp=json.dumps(tmp), fileWriteLimit="64Ki"),
        component("bare", python),
    ]
    with RunningServer(write_components(folder, documents), "--workers", "1") as running:
        yield running


def ran(server: RunningServer, binding: str, *attempts: str) -> list[object]:
    reply = server.invoke(binding, metadata=script(*attempts))
    assert reply.status_code == 200, reply.text
    return list(json.loads(reply.content).values())


def test_what_is_mounted_is_read_and_written(server: RunningServer, folder: Path) -> None:
    assert ran(
        server,
        "mounted",
        "open('/data/file').read()",
        "open('/data/file', 'w')",
        "os.listdir('/data') and sorted(os.listdir('/data'))",
        "open('/scratch/new', 'w').write('by the guest')",
        "os.mkdir('/scratch/folder')",
        "os.rename('/scratch/new', '/scratch/folder/new')",
        "open('/data/out').read()",
        "os.unlink('/data/file')",
    ) == ["of the host", 69, ["file", "out"], 12, None, None, 63, 69]
    assert (folder / "work" / "folder" / "new").read_text() == "by the guest"


def test_what_a_guest_leaves_out_counts_as_written(server: RunningServer, folder: Path) -> None:
    """DQUOT for a byte a tebibyte on, and for room that is only announced."""
    (folder / "work" / "far").touch()
    found = ran(
        server,
        "mounted",
        "os.pwrite(os.open('/scratch/far', os.O_WRONLY), b'x', 1 << 40)",
        "os.truncate('/scratch/far', 1 << 40)",
        "os.posix_fallocate(os.open('/scratch/far', os.O_WRONLY), 0, 1 << 40)",
        "os.pwrite(os.open('/scratch/far', os.O_WRONLY), b'x', 1000)",
    )
    assert found == [19, 19, 19, 1]
    assert (folder / "work" / "far").stat().st_size == 1001


def test_the_folder_in_memory_is_new_for_each_run(server: RunningServer) -> None:
    for _ in range(2):
        assert ran(
            server,
            "mounted",
            "os.listdir('/tmp')",
            "open('/tmp/file', 'w').write('x' * 1000)",
            "open('/tmp/file').read() == 'x' * 1000",
            "open('/tmp/large', 'wb', 0).write(bytes(100_000))",
            "open('/tmp/more', 'wb', 0).write(b'x')",
        ) == [[], 1000, True, 64 * 1024 - 1000, 51]


def test_a_guest_without_mounts_finds_no_file(server: RunningServer) -> None:
    found = ran(server, "bare", "os.listdir('/')", "open('/data/file').read()", "open('/etc/passwd').read()")
    assert all(isinstance(number, int) for number in found)


def test_a_changed_link_is_followed_by_the_next_run(server: RunningServer, folder: Path) -> None:
    reads = ("open('/config/key').read()", "open('/direct/key').read()")
    assert ran(server, "mounted", *reads) == ["one", "one"]
    config = folder / "config"
    (config / "2").mkdir()
    (config / "2" / "key").write_text("two")
    # As Kubernetes changes a ConfigMap.
    (config / "..fresh").symlink_to("2")
    (config / "..fresh").replace(config / "..data")
    assert ran(server, "mounted", *reads) == ["two", "two"]


def test_a_reached_limit_is_named_if_the_guest_then_fails(server: RunningServer) -> None:
    code = "f = open('/scratch/large', 'wb', 0); f.write(bytes(65536)); f.write(b'x')"
    reply = server.invoke("mounted", metadata={"argv": json.dumps(["-I", "-c", code])})
    assert reply.status_code == 500
    assert "it wrote more to its mounts than 64 KiB (fileWriteLimit)" in reply.text
    assert server.metric("sandboxd_limits_reached_total", binding="mounted", limit="fileWriteLimit") == 1


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("mounts", '[{source: /etc, target: /etc}]', "is not beneath"),
        ("mounts", '[{source: ., target: /all}]', "is not beneath"),
        ("mounts", '[{source: link, target: /etc}]', "link, which by its links is /etc, is not beneath"),
        ("mounts", '[{source: missing, target: /m}]', "is not a folder"),
        ("mounts", '[{source: data, target: data}]', "is not an absolute path"),
        ("mounts", '[{source: data, target: /d, readonly: false}]', "readonly is unknown"),
        ("mounts", '[{source: data, target: /d}, {source: data, target: /d/}]', "two mounts have the target /d"),
        ("mounts", "data:/data", "not a list"),
        ("tmp", "{target: /tmp, size: 1Ti}", "size"),
        ("tmp", "{target: /tmp, size: 1Gi}", "above the operator's ceiling"),
        ("tmp", "/tmp", "mapping is expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_mounted_is_told_with_its_remedy(tmp_path: Path, key: str, value: str, told: str) -> None:
    from sandboxd.components import load

    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    folder = write_components(tmp_path, [component("guest", "file://guest.wasm", **{key: value})])
    loaded = load([folder], app_id="sandboxd", environ={})
    assert [told in problem.message for problem in loaded.errors] == [True], loaded.problems


def test_allowed_sources_may_be_mounted_whole(tmp_path: Path) -> None:
    from sandboxd.components import load
    from sandboxd.components.mounts import policy_for

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "components").mkdir()
    source = tmp_path / "elsewhere"
    lists = [f'[{{"source": "{source}", "target": "/a"}}]', f"\n- source: {source}\n  target: /a\n  readOnly: true\n"]
    for text in lists:
        folder = write_components(tmp_path / "components", [component("guest", "file://guest.wasm", mounts=text)])
        policy = policy_for([str(source)], [folder], 1 << 20)
        (binding,) = load([folder], app_id="sandboxd", environ={}, mounts=policy).bindings
        assert [(m.path, m.target, m.read_only) for m in binding.mounts] == [(str(source), "/a", True)]


def test_the_command_line_and_the_library(folder: Path, tmp_path: Path) -> None:
    python = guests.cpython312()
    code = "print(open('/data/file').read(), end=''); open('/out/new', 'w').write('x')"
    options = ["--dir", f"{folder / 'data'}::/data", "--dir", f"{tmp_path}::/out:rw"]
    command = [sys.executable, "-m", "sandboxd", "run", *options, str(python), "--", "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, b"of the host"), done.stderr
    assert (tmp_path / "new").read_text() == "x"
    wrong = [sys.executable, "-m", "sandboxd", "run", "--dir", f"{folder}/none", str(python)]
    done = subprocess.run(wrong, capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, b"is not a folder" in done.stderr) == (2, True), done.stderr
    with pytest.raises(ValueError, match="absolute path"):
        hostfuncs.Mount(source="/", target="data")


def test_a_reload_brings_new_mounts_and_replaced_folders(server: RunningServer, folder: Path) -> None:
    (folder / "later").mkdir()
    (folder / "later" / "file").write_text("new")
    (folder / "data").rename(folder / "former")
    (folder / "data").mkdir()
    (folder / "data" / "file").write_text("replaced")
    since = len(server.lines)
    mounts = '[{"source": "later", "target": "/later"}, {"source": "data", "target": "/data"}]'
    python = f"file://{guests.cpython312()}"
    write_components(folder, [component("mounted", python, mounts=mounts), component("bare", python)])
    server.process.send_signal(signal.SIGHUP)
    server.wait_for(lambda line: line.get("event") == "reloaded", since=since)
    found = ran(server, "mounted", "open('/later/file').read()", "open('/data/file').read()", "os.listdir('/scratch')")
    assert found == ["new", "replaced", 44]


def test_a_worker_has_no_more_descriptors_after_a_run(server: RunningServer) -> None:
    def count() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in server.processes() if _readable(pid))

    leave_open = "[open('/data/file') for _ in range(50)] and None"
    ran(server, "mounted", leave_open)
    before = count()
    for _ in range(3):
        ran(server, "mounted", leave_open)
    assert count() < before + 50


def _readable(pid: int) -> bool:
    return os.access(f"/proc/{pid}/fd", os.R_OK)

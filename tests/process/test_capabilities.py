"""What root may do, the processes behind the wall may not: capabilities(7) are given up where hostile data is read.

As any other user the processes have none from the start; these tests then only say that they work without.
"""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.host.legacy_guests import c_client
from tests.process import tree
from tests.running import RunningServer, component, write_components
from tests.waiting import until

READ = 1 << 2
"""CAP_DAC_READ_SEARCH."""
CHANGE = READ | 1 << 1 | 1 << 3
"""And CAP_DAC_OVERRIDE, CAP_FOWNER."""


COMPILE = """
import os, sys
sys.path = [path for path in sys.path if path != sys.argv[1]] + [sys.argv[2]]
from sandboxd.limits import EngineSettings
from sandboxd.modules import compile_main
from sandboxd.wall import Mode
from sandboxd.wall.confinement import held_capabilities
from sandboxd.wire.messages import GuestKind

source, target = os.memfd_create("guest"), os.memfd_create("artifact")
os.write(source, b"\\0asm\\1\\0\\0\\0")
compile_main.confine(os.getppid(), memory_bytes=1 << 40, cpu_s=60, file_bytes=1 << 20)
compile_main.compile_guest(source, target, GuestKind.MODULE, EngineSettings(), Mode.OFF)
print(os.fstat(target).st_size > 0, held_capabilities())
"""


def capabilities(pid: int) -> set[int]:
    """The sets that a process has now, may take, and gives to programs that it runs (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {int(line.split()[1], 16) for line in lines if line.startswith(("CapInh", "CapPrm", "CapEff", "CapAmb"))}


@pytest.mark.build
@pytest.mark.parametrize("wall", ["required", "off"])
def test_no_process_that_reads_hostile_data_has_capabilities(tmp_path: Path, wall: str) -> None:
    resources = write_components(
        tmp_path, [guest_component("echo"), component("client", f"file://{c_client()}", allowedOutboundHosts='["*"]')]
    )
    with RunningServer(resources, "--workers", "2", environ={"SANDBOXD_POOL_WALL": wall}) as server:
        long = "x" * 100_000
        assert server.invoke("echo", long).json() == long  # another process decodes it
        if wall == "required":
            server.wait_for(lambda line: line.get("event") == "broker")
        others = set(tree.children(server.process.pid)) - set(tree.zygotes(server))
        names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in others}
        assert any(b"decoding.process" in name for name in names.values())
        assert any(b"broker.main" in name for name in names.values()) == (wall == "required")
        for pid in (*others, *tree.workers(server)):
            assert capabilities(pid) == {0}, names.get(pid, b"a worker")


@pytest.mark.parametrize(("read_only", "kept"), [(True, READ), (False, CHANGE)])
def test_workers_keep_what_files_of_other_users_need(tmp_path: Path, read_only: bool, kept: int) -> None:
    (tmp_path / "folder").mkdir()
    mounts = [{"source": "folder", "target": "/data", "readOnly": read_only}]
    documents = [guest_component("echo", mounts=json.dumps(mounts))]
    with RunningServer(write_components(tmp_path, documents), "--workers", "1") as server:
        (worker,) = tree.workers(server)
        own = max(capabilities(os.getpid()))
        assert capabilities(worker) == {0, kept & own}


def test_templates_and_their_children_have_none(tmp_path: Path) -> None:
    resources = write_components(tmp_path, [guest_component("cat", warmStart="true", warmInstances="1")])
    with RunningServer(resources, "--workers", "1") as server:
        before = set(tree.workers(server))
        until(
            lambda: server.invoke("cat", "x").status_code == 200 and server.metric("sandboxd_warm_invocations_total"),
            "an answer of a template's child",
        )
        assert set(tree.workers(server)) - before
        for pid in tree.workers(server):
            # A child that was forked just now is still giving them up, and runs nothing before it has.
            until(lambda pid=pid: not tree.state(pid) or capabilities(pid) == {0}, f"{pid} has none")


def test_a_compiler_of_root_reaches_packages_in_the_folder_of_another_user(tmp_path: Path) -> None:
    packages = sysconfig.get_path("purelib")
    home = tmp_path / "home"
    home.mkdir(0o700)
    (home / "packages").symlink_to(packages)
    if os.getuid() == 0:
        os.chown(home, 12345, -1)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, packages, str(home / "packages")], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True 0\n", done.stderr

"""The confinement of a worker process, seen from outside, and the walls behind the limits of guests."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.config.users import worker_ids
from sandboxd.errors import ConfigError, ExitCode
from sandboxd.zygote import hardening
from tests.conftest import guest_component
from tests.running import PATIENT, RunningServer, write_components

GUESTS = ("echo", "flood", "sort", "cat")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change to another user")


def workers(server: RunningServer) -> list[int]:
    """Process ids of the workers: what the zygote, the front's only child, has forked."""
    below = [pid for pid in server.processes() if pid != server.process.pid]
    zygotes = {int(line.split()[-1]) for line in map(_parent, below) if line}
    return [pid for pid in below if pid not in zygotes]


def _parent(pid: int) -> str:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"PPid:\s+\d+", text)
    return found[0] if found else ""


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limit(pid: int, name: str) -> tuple[str, str]:
    """Soft and hard limit as /proc/PID/limits shows them."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith(name):
            soft, hard = line.removeprefix(name).split()[:2]
            return soft, hard
    raise AssertionError(f"no limit {name!r}")


def started(folder: Path, **environ: str) -> RunningServer:
    resources = write_components(folder / "resources", [guest_component(name) for name in GUESTS])
    return RunningServer(resources, "--workers", "2", environ=environ)


def test_a_worker_has_little(tmp_path: Path) -> None:
    with started(tmp_path, SECRET_OF_THE_OPERATOR="s3cret", DAPR_API_TOKEN="", SANDBOXD_CELLS="1") as server:
        for _ in range(6):
            assert server.invoke("echo", "x").status_code == 200
        pids = workers(server)
        assert len(pids) == 2
        for pid in pids:
            # Besides the two ends of its conversation it has the artifacts, which the zygote opened to map them.
            descriptors = {int(fd.name): os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
            assert descriptors.pop(0) == "/dev/null"
            assert descriptors.pop(1) == "/dev/null"
            assert descriptors.pop(2).startswith("pipe:")
            kinds = sorted(re.sub(r"\[.*| \(deleted\)|.*\.cwasm", "", target) for target in descriptors.values())
            assert kinds == ["", "", "", "", "/memfd:sandboxd-status", "socket:"], descriptors
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            about = status(pid)
            assert about["NoNewPrivs"] == "1"
            assert os.sched_getscheduler(pid) == os.SCHED_BATCH
            assert int(about["Umask"], 8) == 0o077
            assert int(about["Threads"]) == 2, "the guest's and the deadline's"
            assert limit(pid, "Max core file size") == ("0", "0")
            assert limit(pid, "Max file size") == ("0", "0")
            assert int(limit(pid, "Max open files")[1]) < 400
            size_kib = int(about["VmSize"].split()[0])
            room = int(limit(pid, "Max address space")[1]) - 1024 * size_kib
            assert 3 << 30 < room < 5 << 30
            assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert any(limit(pid, "Max cpu time")[0] != "unlimited" for pid in pids), "the one that ran something"


def test_no_worker_can_be_looked_into_by_another(tmp_path: Path) -> None:
    """A process that is not dumpable has its files under /proc owned by root, whoever it runs as."""
    if os.geteuid() == 0:
        with started(tmp_path, SANDBOXD_POOL_USER="65534") as server:
            assert server.invoke("echo", "x").status_code == 200
            for pid in workers(server):
                assert Path(f"/proc/{pid}/mem").stat().st_uid == 0
                assert status(pid)["Uid"].split() == ["65534"] * 4
    else:
        with started(tmp_path) as server:
            for pid in workers(server):
                assert Path(f"/proc/{pid}/mem").stat().st_uid == 0


@as_root
def test_workers_run_as_the_configured_user_and_group(tmp_path: Path) -> None:
    with started(tmp_path, SANDBOXD_POOL_USER="nobody", SANDBOXD_POOL_GROUP="12345") as server:
        reply = server.invoke("sort", "b")
        assert (reply.status_code, reply.content) == (200, b'"b"\n')
        for pid in workers(server):
            about = status(pid)
            assert about["Uid"].split() == ["65534"] * 4
            assert about["Gid"].split() == ["12345"] * 4
            assert about["Groups"] == ""
            assert {about[name] for name in ("CapEff", "CapPrm", "CapInh")} == {"0" * 16}
            # Killing, which the zygote does as root, still works.
            os.kill(pid, signal.SIGKILL)
            server.wait_for(lambda line, pid=pid: f"pid {pid}" in str(line))  # type: ignore[misc]
        assert server.invoke("echo", "x").status_code == 200


@as_root
def test_an_unknown_user_ends_the_start(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    with RunningServer(resources, environ={"SANDBOXD_POOL_USER": "no-such-user"}, wait=False) as server:
        assert server.process.wait(60) == ExitCode.CONFIG
        server.wait_for(lambda line: "pool.user: there is no user 'no-such-user'" in str(line))


def test_check_finds_an_unknown_user(tmp_path: Path) -> None:
    write_components(tmp_path / "resources", [guest_component("echo")])
    done = subprocess.run(
        [sys.executable, "-m", "sandboxd", "check", "--resources-path", str(tmp_path / "resources")],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"SANDBOXD_POOL_GROUP": "no-such-group"},
    )
    assert done.returncode == ExitCode.FAILED
    assert "pool.group: there is no group 'no-such-group' (create it, or give its number)" in done.stdout


@pytest.mark.parametrize(
    ("user", "group", "text"),
    [
        ("no-such-user", None, "pool.user: there is no user 'no-such-user'"),
        (None, "no-such-group", "pool.group: there is no group 'no-such-group'"),
        ("4294967295", None, "pool.user: 4294967295 is not an id"),
        ("4294967294", None, "names its group"),
        ("no\0user", None, "there is no user"),
    ],
)
def test_users_that_cannot_be(user: str | None, group: str | None, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        worker_ids(user, group)


def test_only_root_can_change_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert worker_ids(None, None) == (None, None)
    with pytest.raises(ConfigError, match=r"pool\.user is set, but sandboxd runs as user 1000"):
        worker_ids("0", None)
    with pytest.raises(ConfigError, match=r"pool\.group is set"):
        worker_ids(None, "0")


def test_secrets_stay_in_the_front() -> None:
    given = {
        "DAPR_API_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "k",
        "PATH": "/bin",
        "PYTHONPATH": "x",
        "SSL_CERT_FILE": "c",
    }
    assert hardening.environment(given) == {"PATH": "/bin", "PYTHONPATH": "x", "SSL_CERT_FILE": "c"}


# The wall of processor time ----------------------------------------------------------------------------------------

SPIN = """
import time
from sandboxd.worker.cputime import CpuTimeLimit
wall = CpuTimeLimit(500, period_ns=100_000_000)
wall.renew()
print("armed", flush=True)
until = time.process_time() + {seconds}
while time.process_time() < until:
    if {renewing} and time.monotonic_ns() >= wall.next_ns:
        wall.renew()
print("alive", flush=True)
"""


@pytest.mark.parametrize(("renewing", "seconds", "status"), [(False, 60, -signal.SIGXCPU), (True, 5, 0)])
def test_the_wall_of_processor_time(renewing: bool, seconds: int, status: int) -> None:
    """Two threads' worth of a period and a timeout, rounded up, and a second: 3 s here; renewed, there is no end."""
    script = SPIN.format(renewing=renewing, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stderr
    assert done.stdout == ("armed\nalive\n" if renewing else "armed\n")


# The wall of address space --------------------------------------------------------------------------------------------


def test_the_largest_payloads_fit_within_the_worker_confinement(tmp_path: Path) -> None:
    """128 MiB both ways, the most a body and a reply may have by default's ceilings, at the least `hostMemory`."""
    documents = [guest_component("echo", stdoutLimit="128Mi", timeout="10m", memoryLimit="512Mi")]
    resources = write_components(tmp_path / "resources", documents)
    size = (128 << 20) - 64
    environ = {"SANDBOXD_POOL_HOST_MEMORY": "1Gi", "SANDBOXD_LISTEN_MAX_BODY_SIZE": "128Mi", **PATIENT}
    with RunningServer(resources, "--workers", "1", environ=environ) as server:
        body = b'{"operation":"execute","data":"' + b"x" * (size - 31) + b'"}'
        for _ in range(2):
            with server.client() as client:
                reply = client.post("/v1.0/bindings/echo", content=body, timeout=600)
            assert reply.status_code == 200, reply.text[:500]
            assert len(reply.content) == size - 31 + 2
        assert server.metric("sandboxd_worker_starts_total") == 1


EAT = """
import os, sys
from sandboxd.limits import EngineSettings, OutboundSettings
from sandboxd.wire.messages import Confinement, Load
from sandboxd.zygote import hardening
load = Load(engine=EngineSettings(), outbound=OutboundSettings(), guests=(),
            confinement=Confinement(host_memory_bytes=1 << 30, wall="off"))
hardening.confine_worker(hardening.confine_zygote(load))
kept = bytearray(600 << 20)
try:
    kept += bytes(600 << 20)
except MemoryError:
    print("refused", file=sys.stderr)
try:
    with open("/tmp/sandboxd-must-not-be-written", "wb", buffering=0) as file:
        file.write(b"x")
except OSError as error:
    print(type(error).__name__, error.errno, file=sys.stderr)
finally:
    if os.path.exists("/tmp/sandboxd-must-not-be-written"):
        os.unlink("/tmp/sandboxd-must-not-be-written")
"""


def test_the_wall_of_address_space_and_of_files() -> None:
    done = subprocess.run([sys.executable, "-c", EAT], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, f"refused\nOSError {errno.EFBIG}\n")

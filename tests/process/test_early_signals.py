"""Signals that come while the server is still being imported: none is lost, none does what it does not mean."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.process import tree
from tests.running import RunningServer, write_components
from tests.waiting import BOUND_S, until


def handled(pid: int, number: int) -> bool:
    """Return whether the process has a handler for a signal: proc_pid_status(5), SigCgt."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


@contextmanager
def importing(resources: Path) -> Iterator[RunningServer]:
    """A server that is stopped as soon as it has handlers, long before it has imported everything."""
    with RunningServer(resources, "--workers", "1", wait=False) as server:
        until(lambda: handled(server.process.pid, signal.SIGHUP), "the first handlers are there")
        os.kill(server.process.pid, signal.SIGSTOP)
        yield server


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_components(tmp_path_factory.mktemp("early"), [guest_component("echo")])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_an_early_end(resources: Path, number: signal.Signals, status: int) -> None:
    with importing(resources) as server:
        server.process.send_signal(number)
        server.process.send_signal(signal.SIGCONT)
        # By the event loop, if it was there already, or before.
        assert server.process.wait(BOUND_S) in (status, 0)
        assert "Traceback" not in server.text()


def test_an_early_reload(resources: Path) -> None:
    with importing(resources) as server:
        server.process.send_signal(signal.SIGHUP)
        server.process.send_signal(signal.SIGCONT)
        server.wait_for(lambda line: line.get("event") == "reloaded")
        assert server.invoke("echo", 1).json() == 1
        assert server.terminate() == 0


def test_process_1_ends_early(resources: Path) -> None:
    """The kernel delivers to process 1 only signals that it has a handler for: pid_namespaces(7)."""
    program = (
        "import os, signal, sys; sys.argv = ['sandboxd', 'serve']; from sandboxd.processes import signals;"
        "signals.take_early(); print(os.getpid(), flush=True); signal.pause()"
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "1\n":
                pytest.skip("no PID namespace can be made here")
            (child,) = tree.children(process.pid)
            os.kill(child, signal.SIGTERM)
            assert process.wait(BOUND_S) == 0
        finally:
            process.kill()

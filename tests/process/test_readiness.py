"""Ready means ready: the port opens with the guests, closes after a delay, and systemd is told of both."""

import signal
import socket
from pathlib import Path

import httpx2 as httpx

from tests.guests import path
from tests.process import tree
from tests.running import RunningServer, component, write_components
from tests.waiting import BOUND_S


def resources_in(folder: Path) -> Path:
    return write_components(folder / "resources", [component("echo", f"file://{path('echo')}")])


def test_the_port_opens_when_the_guests_are_loaded(tmp_path: Path) -> None:
    with RunningServer(resources_in(tmp_path), "--workers", "1", wait=False, bind=True) as server:
        address = server.wait_for(lambda line: line.get("event") == "listening")["address"]
        host, _, port = address.rpartition(":")
        # While the log has not said `ready`, nobody listens. A stopped server says nothing more.
        tree.stop(server.process.pid)
        with socket.socket() as caller:
            refused = caller.connect_ex((host, int(port)))
        if not refused:
            server.wait_for(lambda line: line.get("event") == "ready")
        server.process.send_signal(signal.SIGCONT)
        server.wait_for(lambda line: line.get("event") == "serving")
        assert "ready" in [line.get("event") for line in server.lines]
        assert httpx.get(f"http://{address}/readyz", trust_env=False, timeout=BOUND_S).status_code == 200


def test_after_sigterm_connections_are_accepted_for_a_while_and_readyz_says_no(tmp_path: Path) -> None:
    environ = {"SANDBOXD_DRAIN_DELAY": "60s"}
    with RunningServer(resources_in(tmp_path), "--workers", "1", environ=environ) as server:
        server.process.terminate()
        server.wait_for(lambda line: line.get("event") == "leaving")
        with httpx.Client(base_url=server.base_url, trust_env=False, timeout=BOUND_S) as client:
            assert client.get("/readyz").status_code == 503
            assert client.get("/livez").status_code == 200
            body = {"operation": "execute", "data": "x"}
            assert client.post("/v1.0/bindings/echo", json=body).json() == "x"
        # A second one does not wait.
        server.process.terminate()
        server.wait_for(lambda line: line.get("event") == "draining")
        assert server.process.wait(BOUND_S) == 0


def told(manager: socket.socket, state: str) -> list[str]:
    """Read what systemd would, up to a state."""
    lines: list[str] = []
    while state not in lines:
        lines += manager.recv(4096).decode().split("\n")
    return lines


def test_systemd_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with RunningServer(resources_in(tmp_path), "--workers", "1", environ=environ) as server:
            told(manager, "READY=1")
            told(manager, "WATCHDOG=1")
            server.process.send_signal(1)
            assert "READY=1" not in told(manager, "RELOADING=1")
            told(manager, "READY=1")
            server.process.terminate()
            told(manager, "STOPPING=1")


def test_systemd_is_told_by_the_supervisor_of_cells(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(tmp_path / "notify"))
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "SANDBOXD_CELLS": "2"}
        with RunningServer(resources_in(tmp_path), "--workers", "2", environ=environ, ready="cells_ready") as server:
            told(manager, "READY=1")
            server.process.send_signal(1)
            assert "READY=1" not in told(manager, "RELOADING=1")
            told(manager, "READY=1")
            server.process.terminate()
            told(manager, "STOPPING=1")


def test_cells_keep_a_unix_socket_until_they_stop_accepting_and_hear_a_second_sigterm(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    environ = {"SANDBOXD_CELLS": "2", "SANDBOXD_DRAIN_DELAY": "1h"}
    options = ("--workers", "2", "--unix-socket", str(path))
    with RunningServer(
        resources_in(tmp_path), *options, environ=environ, ready="cells_ready", unix_socket=path
    ) as server:
        server.process.terminate()
        for cell in (0, 1):
            server.wait_for(lambda line, cell=cell: (line.get("event"), line.get("cell")) == ("leaving", cell))
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(BOUND_S)
            caller.connect(str(path))
            caller.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert caller.recv(4096).startswith(b"HTTP/1.1 503 ")
        server.process.terminate()
        assert server.process.wait(BOUND_S) == 0
        assert not path.exists()

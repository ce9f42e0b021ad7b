"""SIGTERM in each phase of a start and of a reload, while a part hangs: the server ends, and nothing is left of it."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wasmtime

from sandboxd.wall import seccomp
from sandboxd.wall.syscalls import this_machine
from tests.conftest import guest_component
from tests.process import tree
from tests.running import RunningServer, component, write_components
from tests.waiting import BOUND_S, until


@contextlib.contextmanager
def silent_origin(answer: bytes = b"") -> Iterator[tuple[str, threading.Event]]:
    """The URL of a guest that is never sent, or not to its end; and whether it was asked for."""
    asked, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)
                    asked.set()
                    over.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/guest.wasm", asked
        finally:
            over.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(BOUND_S)


def ends(server: RunningServer) -> None:
    """Terminate it. Its processes are looked at before that, since those that are left have another parent then."""
    with tree.watched(server.processes()) as gone:
        assert server.terminate(BOUND_S) == 0, server.text()
        assert gone(BOUND_S) == []
    assert "Traceback" not in server.text()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n\0asm\1\0\0\0"])
def test_while_an_origin_does_not_send_a_guest(tmp_path: Path, answer: bytes) -> None:
    with silent_origin(answer) as (url, asked):
        resources = write_components(tmp_path / "resources", [component("late", url), guest_component("echo")])
        with RunningServer(resources, "--workers", "1", wait=False) as server:
            assert asked.wait(BOUND_S)
            ends(server)


def child_of(server: RunningServer, program: bytes) -> int:
    """Wait for a process that the server starts, and stop it: it hangs from then on."""
    found: list[int] = []

    def started() -> bool:
        for pid in server.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if program in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return bool(found)

    until(started, f"a process of {program.decode()}")
    os.kill(found[0], signal.SIGSTOP)
    return found[0]


NO_WATCH = {"SANDBOXD_RELOAD_WATCH": "false"}
"""One reload for each SIGHUP, and none besides for the files that were written before it."""
CALLS_OUT = """
(module (import "types" "new-fields" (func (param i32 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))
"""
"""There is a broker for guests that import Dapr's wasi-http."""
PROGRAMS = {
    "compiler": b"sandboxd.modules.compile_main",
    "zygote": b"sandboxd.zygote.main",
    "broker": b"sandboxd.broker.main",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_while_a_process_of_the_start_hangs(tmp_path: Path, program: str) -> None:
    guest = tmp_path / "calls-out.wasm"
    guest.write_bytes(wasmtime.wat2wasm(CALLS_OUT))
    resources = write_components(tmp_path / "resources", [component("calls-out", f"file://{guest}")])
    environ = {"SANDBOXD_CACHE_FOLDER": str(tmp_path / "cold")} if program == "compiler" else {}
    if program == "broker":
        if this_machine() is None or not seccomp.available():
            pytest.skip("without a wall there is no broker")
        environ = {"SANDBOXD_POOL_WALL": "auto"}
    with RunningServer(resources, "--workers", "2", environ=environ, wait=False) as server:
        child_of(server, PROGRAMS[program])
        ends(server)


def test_while_the_first_worker_hangs(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    with RunningServer(resources, "--workers", "4", wait=False) as server:
        until(lambda: bool(tree.workers(server)), "a worker")
        os.kill(tree.workers(server)[0], signal.SIGSTOP)
        ends(server)


def test_while_a_reload_waits_for_an_origin(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    with silent_origin() as (url, asked), RunningServer(resources, "--workers", "1", environ=NO_WATCH) as server:
        write_components(tmp_path / "resources", [guest_component("echo"), component("late", url)])
        server.process.send_signal(signal.SIGHUP)
        assert asked.wait(BOUND_S)
        ends(server)


@pytest.mark.parametrize("what", ["zygote", "worker"])
def test_while_a_reload_s_new_process_hangs(tmp_path: Path, what: str) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    with RunningServer(resources, "--workers", "1", environ=NO_WATCH) as server:
        former = set(tree.zygotes(server)) | set(tree.workers(server))
        write_components(tmp_path / "resources", [guest_component("echo"), guest_component("upper")])
        server.process.send_signal(signal.SIGHUP)
        processes: Callable[[RunningServer], list[int]] = tree.zygotes if what == "zygote" else tree.workers
        until(lambda: bool(set(processes(server)) - former), f"a new {what}")
        (fresh, *_) = set(processes(server)) - former
        os.kill(fresh, signal.SIGSTOP)
        ends(server)

"""`sandboxd run` passes on what a guest writes while it runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wasmtime

from sandboxd.errors import ExitCode
from tests.guests import path as guest
from tests.guests.component.build import python_component
from tests.host.component_text import component as component_text
from tests.process.test_cli import sandboxd_command
from tests.running import component

ENDLESS = "(loop $for_ever (br $for_ever))"
MODULE = f"""(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\04\\00\\00\\00")
  (data (i32.const 16) "out\\nerr\\n")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
    (i32.store (i32.const 0) (i32.const 20))
    (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 32)))
    {ENDLESS}))"""
COMPONENT = component_text(
    f"(call $say (i32.const 2048) (i32.const 4)) {ENDLESS} (i32.const 0)",
    extra='(data (i32.const 2048) "out\\n")',
)


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    file = tmp_path / "guest.wasm"
    file.write_bytes(wasmtime.wat2wasm(request.param))
    return file


def is_module(file: Path) -> bool:
    return file.read_bytes().startswith(b"\0asm\1\0\0\0")


@contextmanager
def running(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "sandboxd", "run", "--timeout", "1h", *arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("file", [MODULE, COMPONENT], indirect=True, ids=["module", "component"])
@pytest.mark.parametrize("by_component", [False, True], ids=["file", "component-file"])
def test_output_comes_while_the_guest_runs(file: Path, by_component: bool) -> None:
    target = file
    if by_component:
        target = file.with_name("guest.yaml")
        target.write_text(component("guest", f"file://{file}", timeout="1h"))
    # The guest never ends, so what is read here was passed on before its end.
    with running(str(target)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"out\n"
        if is_module(file):
            assert process.stderr is not None
            assert process.stderr.readline() == b"err\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT


@pytest.mark.parametrize("file", [MODULE, COMPONENT], indirect=True, ids=["module", "component"])
def test_what_was_written_before_the_end_comes_once(file: Path) -> None:
    done = sandboxd_command("run", "--timeout", "2s", str(file))
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, b"out\n")
    assert done.stderr.count(b"err\n") == is_module(file)
    assert b"deadline_exceeded" in done.stderr


@pytest.mark.build
def test_the_body_of_a_handler_comes_once() -> None:
    # With the lines of traps it has another artifact than the server's, which a busy machine compiles for minutes.
    command = [sys.executable, "-m", "sandboxd", "run", str(python_component("proxy", "proxy"))]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=600, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello from a proxy", b"called with /\n")


def test_the_limit_of_stdout_holds(tmp_path: Path) -> None:
    file = tmp_path / "flood.yaml"
    file.write_text(component("flood", f"file://{guest('flood')}", stdoutLimit="1000"))
    done = sandboxd_command("run", str(file), "2000", "300")
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, 900 * b"x")
    assert b"stdoutLimit" in done.stderr


def test_all_of_stderr_passes(tmp_path: Path) -> None:
    """`stderrLimit` is what is kept for an answer and the log; nothing of it is kept here."""
    file = tmp_path / "stderr.yaml"
    file.write_text(component("stderr", f"file://{guest('stderr')}", stderrLimit="1000"))
    done = sandboxd_command("run", str(file), "flood", "200")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", 200 * 1024 * b"e")


def test_a_reader_that_leaves_ends_it_as_any_filter() -> None:
    with running(str(guest("flood")), "forever") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == 10 * b"x"
        process.stdout.close()
        assert process.wait(60) == -signal.SIGPIPE
        assert process.stderr.read() == b""


@pytest.mark.parametrize("file", [COMPONENT.replace(ENDLESS, "")], indirect=True)
def test_a_reader_that_has_left_before(file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sandboxd", "run", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=180,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_a_full_device_is_told() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sandboxd", "run", str(guest("flood")), "10"],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=180,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        ExitCode.FAILED,
        b"sandboxd: cannot write stdout: No space left on device\n",
    )


def test_closed_streams_get_nothing() -> None:
    command = f'exec "{sys.executable}" -m sandboxd run "{guest("upper")}" >&-'
    done = subprocess.run(["sh", "-c", command], input=b"x", capture_output=True, timeout=180, check=False)
    assert (done.returncode, done.stderr) == (0, b"")

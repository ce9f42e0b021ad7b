"""The command line as a user types it."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import sandboxd
from sandboxd.config import load
from sandboxd.errors import ExitCode
from sandboxd.server.serve import serve
from tests.guests import path
from tests.running import component, write_components


def sandboxd_command(*arguments: str, stdin: bytes = b"", **options: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "sandboxd", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=180, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_version() -> None:
    assert sandboxd_command("--version").stdout.decode().strip() == f"sandboxd {sandboxd.__version__}"


def test_run_gives_stdin_arguments_environment_and_exit_code() -> None:
    assert sandboxd_command("run", str(path("upper")), stdin=b"hello\n").stdout == b"HELLO\n"
    shown = sandboxd_command("run", str(path("args")), "--", "-x", "a b").stdout
    assert shown.splitlines() == [b"args", b"-x", b"a b"]
    assert b"NAME=value=1" in sandboxd_command("run", "--env", "NAME=value=1", str(path("env"))).stdout.splitlines()
    assert sandboxd_command("run", str(path("exit")), "7").returncode == 7


def test_run_ends_a_guest_at_its_timeout() -> None:
    done = sandboxd_command("run", "--timeout", "200ms", str(path("loop")))
    assert done.returncode == ExitCode.FAILED
    assert b"deadline_exceeded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["run", "--env", "X", "x.wasm"], ExitCode.USAGE, b"NAME=VALUE"),
        (["run", "--timeout", "soon", "x.wasm"], ExitCode.USAGE, b"--timeout"),
        (["run", "/nonexistent/x.wasm"], ExitCode.COMPONENT, b"x.wasm"),
        (["serve", "--workers", "0"], ExitCode.CONFIG, b"pool.workers"),
    ],
)
def test_mistakes_name_their_cause(arguments: list[str], status: ExitCode, text: bytes) -> None:
    done = sandboxd_command(*arguments)
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert b"Traceback" not in done.stderr


def test_printed_settings_load_to_themselves(tmp_path: Path) -> None:
    printed = sandboxd_command("serve", "--workers", "3", "--print-config").stdout
    file = tmp_path / "sandboxd.yaml"
    file.write_bytes(printed)
    assert sandboxd_command("serve", "--config", str(file), "--print-config").stdout == printed
    assert b"workers: 3" in printed


def test_compile_fills_the_store_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOXD_CACHE_FOLDER", str(tmp_path / "cache"))
    resources = write_components(tmp_path / "r", [component("a", f"file://{path('tiny')}")])
    first = sandboxd_command("compile", "--resources-path", str(resources))
    assert first.returncode == 0, first.stderr
    name, kind, _, artifact = first.stdout.decode().split()
    assert (name, kind) == ("a", "module")
    assert Path(artifact).is_file()
    assert b"compiled" in first.stderr
    again = sandboxd_command("compile", "--resources-path", str(resources))
    assert b"cached" in again.stderr


def test_check_lists_every_problem_with_its_place(tmp_path: Path) -> None:
    resources = write_components(
        tmp_path / "r",
        [
            component("good", f"file://{path('tiny')}"),
            component("gone", "file:///nonexistent/x.wasm"),
            component("strange", f"file://{path('tiny')}", timeout="soon"),
        ],
    )
    done = sandboxd_command("check", "--resources-path", str(resources))
    out = done.stdout.decode()
    assert done.returncode == ExitCode.FAILED
    assert "components.yaml" in out
    assert "/nonexistent/x.wasm" in out
    assert "timeout" in out
    assert out.splitlines()[-1].endswith("bindings that can be served: good")


def test_a_dapr_configuration_makes_every_binding_strict(tmp_path: Path) -> None:
    file = tmp_path / "dapr.yaml"
    document = {"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "c"}}
    file.write_text(json.dumps({**document, "spec": {"wasm": {"strictSandbox": True}}}))
    printed = sandboxd_command("serve", "--dapr-config", str(file), "--print-config").stdout
    assert b"strictSandbox: true" in printed


def test_a_server_without_descriptors_says_so(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "r", [component("a", f"file://{path('tiny')}")])
    sandboxd_command("compile", "--resources-path", str(resources))
    served = sandboxd_command(
        "serve", "--port", "0", "--resources-path", str(resources),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)),
    )  # fmt: skip
    assert served.returncode == ExitCode.WORKERS, served.stderr
    assert b"Traceback" not in served.stderr
    last = json.loads(served.stderr.splitlines()[-1])
    assert "Too many open files" in last["message"]
    assert "ulimit -n" in last["message"]


def test_a_server_without_threads_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    # The limit of threads does not hold for root, so CPython's error is made here.
    async def run(_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("sandboxd.server.serve.Server.run", run)
    config, problems = load(None, environ={"HOME": "/nonexistent"}, overrides={})
    assert serve(config, problems, fd=None) == ExitCode.WORKERS
    assert "ulimit -u" in json.loads(capfd.readouterr().err.splitlines()[-1])["message"]

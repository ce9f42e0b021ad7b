"""The WASI test suite, through a served binding and through `sandboxd run`."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hostfuncs
from tests.conformance.wasi_testsuite import Case, cases, suite
from tests.guests.cache import ToolMissingError, npm_tool, skip_or_fail
from tests.guests.component.build import COMPONENTIZE_JS
from tests.running import RunningServer, component, write_components

# Slow: 72 guests are compiled.
pytestmark = [pytest.mark.build, pytest.mark.slow]


@pytest.fixture(scope="module")
def tests() -> Path:
    try:
        return suite()
    except ToolMissingError as missing:
        pytest.skip(str(missing))


def judged(case: Case, exit_code: int | None, stdout: bytes, said: object) -> list[str]:
    """What is wrong with the end of a test; empty if nothing is."""
    if exit_code != case.exit_code or (case.stdout is not None and stdout.decode() != case.stdout):
        return [f"{case.name}: exit code {exit_code}, {stdout!r}: {said}"]
    return []


def test_a_served_binding_passes_every_test_of_preview_1(tests: Path, tmp_path: Path) -> None:
    found = cases(tests, "wasm32-wasip1")
    assert len(found) == 72
    documents = []
    for case in found:
        root = case.prepared(tmp_path / "components")
        mounts = {"mounts": json.dumps([{"source": root.name, "target": "/", "readOnly": False}])} if root else {}
        env = {f"env.{name}": value for name, value in case.env.items()}
        documents.append(component(case.name, f"file://{case.file}", traceparent="false", **env, **mounts))
    wrong = []
    with RunningServer(write_components(tmp_path / "components", documents), "--workers", "1") as server:
        for case in found:
            reply = server.invoke(case.name, metadata={"argv": json.dumps(case.args)} if case.args else {})
            exit_code: int | None = 0
            if reply.status_code != 200:
                _, code, number = reply.json()["message"].partition("module closed with exit_code(")
                exit_code = int(number.rstrip(")")) if code else None
            wrong += judged(case, exit_code, reply.content if not exit_code else b"", reply.text)
    assert not wrong, "\n".join(wrong)


def test_the_command_line_passes_every_test_of_preview_1(tests: Path, tmp_path: Path) -> None:
    found = cases(tests, "wasm32-wasip1")
    assert len(found) == 72

    lines = []
    for case in found:
        root = case.prepared(tmp_path)
        options = [word for pair in case.env.items() for word in ("--env", "=".join(pair))]
        if root is not None:
            options += ["--dir", f"{root}::/:rw"]
        lines.append(json.dumps(["run", *options, str(case.file), "--", *case.args]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance.command_line"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = []
    for case, (exit_code, stdout, stderr) in zip(found, ends, strict=True):
        wrong += judged(case, exit_code, base64.b64decode(stdout), base64.b64decode(stderr))
    assert not wrong, "\n".join(wrong)


ADAPTER_FAILS = {
    # Each ends alike in wasmtime 49: the adapter asserts that a C library asks for the sizes first.
    "assemblyscript-args-get-multiple-arguments",
    "assemblyscript-environ-get-multiple-variables",
    # The adapter has no descriptor 3 that is closed.
    "assemblyscript-fd-write-to-invalid-fd",
}


def test_the_same_tests_as_components_of_wasi_0_2(tests: Path, tmp_path: Path) -> None:
    """Through the adapter, preview 1 becomes wasi:filesystem."""
    try:
        tool = npm_tool(*COMPONENTIZE_JS)
    except ToolMissingError as missing:
        skip_or_fail(missing)
    found = cases(tests, "wasm32-wasip1")
    script = Path(__file__).with_name("components.mjs")
    jco = tool.parent / "jco"
    words = [jco / "dist" / "api.js", jco / "lib" / "wasi_snapshot_preview1.command.wasm", tmp_path]
    command = ["node", script, *words, *(f"{case.name}={case.file}" for case in found)]
    subprocess.run([str(word) for word in command], check=True, timeout=120)
    wrong = []
    for case in found:
        root = case.prepared(tmp_path)
        mounts = [] if root is None else [hostfuncs.Mount(source=str(root), target="/", read_only=False)]
        result = hostfuncs.run(tmp_path / f"{case.name}.wasm", args=case.args, env=case.env, mounts=mounts)
        # WASI 0.2 ends a command with success or failure.
        passed = result.outcome.value == ("exit_nonzero" if case.exit_code else "completed")
        if passed == (case.name in ADAPTER_FAILS):
            wrong.append(f"{case.name}: {result.outcome} {result.message} {result.stderr.decode(errors='replace')}")
    assert not wrong, "\n".join(wrong)


def test_every_test_of_wasi_0_3_is_refused_with_one_clear_message(tests: Path, tmp_path: Path) -> None:
    found = cases(tests, "wasm32-wasip3")
    assert len(found) == 55
    folder = write_components(tmp_path, [component(case.name, f"file://{case.file}") for case in found])
    done = subprocess.run(
        [sys.executable, "-m", "sandboxd", "check", "--resources-path", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if "is WASI 0.3, which is not supported" in line]
    assert len(told) == len(found), done.stdout + done.stderr

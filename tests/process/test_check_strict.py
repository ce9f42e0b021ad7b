"""`sandboxd check` as a gate: mistakes that would cost a binding, or every request, have exit status 1 and a place."""

import os
from pathlib import Path

import pytest
import wasmtime

from sandboxd.errors import ExitCode
from tests.guests import path
from tests.process.test_cli import sandboxd_command
from tests.running import component, write_components

TABLE = '(module (table 900000 funcref) (memory (export "memory") 1) (func (export "_start")))'
UNKNOWN_WASI = """(component (import "wasi:clocks/timezone@0.2.12" (instance (export "utc-offset" (func (result s32)))))
  (core module $m (func (export "run") (result i32) i32.const 0)) (core instance $i (instantiate $m))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"""


def checked(folder: Path) -> tuple[int, str]:
    done = sandboxd_command("check", "--resources-path", str(folder))
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize(
    ("wrong", "right", "says"),
    [
        ("specs:", "spec:", ["a.yaml:4", "has no spec.type", "did you mean spec?"]),
        ("type: binding.wasm", "type: bindings.wasm", ["a.yaml:1", "did you mean bindings.wasm?"]),
        ("kind: Componet", "kind: Component", ["a.yaml:2", 'its kind is "Componet", not Component']),
        ("kind: Deployment", "kind: Component", ["a.yaml:2", 'its kind is "Deployment", not Component']),
        ("dapr.io/v1\n", "dapr.io/v1alpha1\n", ["a.yaml:1", 'its apiVersion is "dapr.io/v1"']),
    ],
)
def test_a_typo_fails_and_does_not_hide_the_good(tmp_path: Path, wrong: str, right: str, says: list[str]) -> None:
    text = f"""apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: a}}
spec:
  type: bindings.wasm
  version: v1
  metadata:
  - {{name: url, value: "file://{path("upper")}"}}
"""
    (tmp_path / "a.yaml").write_text(text.replace(right, wrong, 1))
    (tmp_path / "b.yaml").write_text(text.replace("name: a", "name: good"))
    status, said = checked(tmp_path)
    assert status == 1, said
    for part in says:
        assert part in said
    assert "bindings that can be served: good" in said


def test_a_guest_that_cannot_be_had_is_told_once_and_at_its_url(tmp_path: Path) -> None:
    guests = tmp_path / "guests"
    guests.mkdir()
    (guests / "page.wasm").write_bytes(b"<html>")
    documents = {"missing": f"file://{guests}/none.wasm", "page": f"file://{guests}/page.wasm", "scheme": "a.wasm"}
    for name, url in documents.items():
        (tmp_path / f"{name}.yaml").write_text(component(name, url))
    done = sandboxd_command("check", "--resources-path", str(tmp_path))
    assert done.returncode == 1
    lines = (done.stdout + done.stderr).decode().splitlines()
    assert len(lines) == 4, lines
    for name in documents:
        (line,) = (line for line in lines if line.startswith(f"{tmp_path}/{name}.yaml:"))
        # The ninth line has the url. What daprd says before each fault is left out.
        assert line.startswith(f"{tmp_path}/{name}.yaml:9: error: component {name}: "), line
        assert line.endswith(")"), "there is a remedy"


def test_serve_has_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(component("a", f"file://{tmp_path}/none.wasm"))
    environ = {"SANDBOXD_ADMIN_LISTEN": "off", "SANDBOXD_LOGGING_FORMAT": "text"}
    options = ("--port", "0", "--grpc-port", "0", "--resources-path", str(tmp_path))
    done = sandboxd_command("serve", *options, env={**os.environ, **environ})
    assert done.returncode == ExitCode.COMPONENT
    assert f"{tmp_path}/a.yaml:9: process component a error: [INIT_COMPONENT_FAILURE]".encode() in done.stderr


def test_an_empty_folder_is_nothing_to_serve(tmp_path: Path) -> None:
    status, said = checked(tmp_path)
    assert status == 1
    assert "there is nothing to serve" in said


def test_what_only_shows_when_a_guest_is_linked(tmp_path: Path) -> None:
    command = UNKNOWN_WASI.replace(UNKNOWN_WASI.partition("\n")[0], "(component")
    for name, text in {"table": TABLE, "zone": UNKNOWN_WASI, "library": "(module)", "command": command}.items():
        (tmp_path / f"{name}.wasm").write_bytes(wasmtime.wat2wasm(text))
    documents = [component(name, f"file://{tmp_path}/{name}.wasm") for name in ("table", "zone", "library")]
    documents += [
        component("small", f"file://{path('upper')}", memoryLimit="64Ki"),
        component("good", f"file://{path('upper')}"),
        component("absent", f"file://{path('upper')}", warmUntil="make_ready"),
        component("late", f"file://{tmp_path}/command.wasm", warmUntil="make_ready"),
    ]
    folder = write_components(tmp_path / "resources", documents)
    status, said = checked(folder)
    assert status == 1
    lines = said.splitlines()
    for name, part in {
        "small": "of memory to begin with, more than 64 KiB (memoryLimit)",
        "table": "more table elements to begin with than",
        "zone": "wasi:clocks/timezone@0.2.12",
        "library": "exports no _start",
        "absent": 'the module does not export "make_ready"',
        "late": "warmUntil names a function, and only core modules can have one",
    }.items():
        assert any(part in line and line.startswith(f"{folder}/") for line in lines), (name, said)
    assert lines[-1].endswith("bindings that can be served: library, good")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check", "--resource-path", "x"], b"did you mean --resources-path?"),
        (["run", "--time", "1s", "a.wasm"], b"did you mean --timeout?"),
    ],
)
def test_mistakes_of_the_command_line(arguments: list[str], text: bytes) -> None:
    done = sandboxd_command(*arguments)
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr

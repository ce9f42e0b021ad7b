"""Mistaken builds of toolchains: `check`, `compile` and `serve` refuse them alike, and say what to do instead.

The table stands in docs/guests.md.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

from tests.guests import path
from tests.process.test_cli import sandboxd_command
from tests.running import RunningServer, component, write_components


def imports(module: str, name: str, what: str = "(func)") -> bytes:
    text = f'(module (import "{module}" "{name}" {what}) (memory (export "memory") 1) (func (export "_start")))'
    return bytes(wasmtime.wat2wasm(text))


def section(number: int, body: bytes) -> bytes:
    return bytes((number, len(body))) + body


def legacy_exceptions() -> bytes:
    """`try`, `throw` and `catch` as they were before WebAssembly 3. No text format has them any more."""
    code = bytes((0, 0x06, 0x40, 0x08, 0, 0x07, 0, 0x0B, 0x0B))
    sections = ((1, b"\1\x60\0\0"), (3, b"\1\0"), (5, b"\1\0\1"), (13, b"\1\0\0"), (7, b"\1\6_start\0\0"))
    return (
        b"\0asm\1\0\0\0"
        + b"".join(section(number, body) for number, body in sections)
        + section(10, bytes((1, len(code))) + code)
    )


WASI_0_3 = """(component
  (type $t (instance (export "get-environment" (func (result (list (tuple string string)))))))
  (import "wasi:cli/environment@0.3.0" (instance (type $t))))"""

REFUSED = {
    "inner": (imports("wasi:cli/stdout@0.2.0", "get-stdout", "(func (result i32))"), "wasm-tools component new"),
    "abort": (imports("env", "abort", "(func (param i32 i32 i32 i32))"), "@assemblyscript/wasi-shim"),
    "middleware": (imports("http_handler", "next"), "middleware.http.wasm"),
    "legacy": (legacy_exceptions(), "wasm-opt --translate-to-exnref"),
    "threads": (
        imports("wasi", "thread-spawn", "(func (param i32) (result i32))"),
        "target wasm32-wasip1, not -threads",
    ),
    "shared": (
        bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1 1 shared) (func (export "_start")))')),
        "target wasm32-wasip1, not -threads",
    ),
    "browser": (imports("gojs", "runtime.wasmExit", "(func (param i32))"), "GOOS=wasip1"),
    "bindgen": (imports("__wbindgen_placeholder__", "__wbindgen_throw"), "wasm32-wasip1"),
    "unstable": (imports("wasi_unstable", "fd_write"), "wasm32-wasip1"),
    "future": (bytes(wasmtime.wat2wasm(WASI_0_3)), "is WASI 0.3, which is not supported (sandboxd runs WASI 0.2.0"),
    "wide": (bytes(wasmtime.wat2wasm('(module (memory (export "memory") i64 1))')), "build for wasm32"),
}
"""What is built, and the remedy."""
REACTOR = "exports no _start: replies will be empty, as in Dapr (build it as a command, not as a library"


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    guests = {name: wasm for name, (wasm, _) in REFUSED.items()}
    guests["reactor"] = bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1) (func (export "_initialize")))'))
    documents = [component("good", f"file://{path('upper')}")]
    for name, wasm in guests.items():
        (folder / f"{name}.wasm").write_bytes(wasm)
        documents.append(component(name, f"file://{folder}/{name}.wasm"))
    # One that fails must not keep the server from telling of the others.
    documents = [text.replace("  version: v1\n", "  version: v1\n  ignoreErrors: true\n") for text in documents]
    return write_components(folder / "components", documents)


@pytest.mark.parametrize("command", ["check", "compile"])
def test_a_command_tells_the_remedy(resources: Path, command: str) -> None:
    done = sandboxd_command(command, "--resources-path", str(resources))
    lines = (done.stdout + done.stderr).decode().splitlines()
    for name, (_, remedy) in REFUSED.items():
        words = f": component {name}: " if command == "check" else f"initialization error occurred for {name} "
        (told,) = (line for line in lines if words in line)
        assert remedy in told
    assert any(REACTOR in line for line in lines), lines


def test_a_run_of_a_reactor_says_why_nothing_happens(resources: Path) -> None:
    done = sandboxd_command("run", str(resources.parent / "reactor.wasm"))
    assert (done.returncode, done.stdout) == (0, b"")
    assert REACTOR in done.stderr.decode()


@pytest.fixture(scope="module")
def server(resources: Path) -> Iterator[RunningServer]:
    with RunningServer(resources, "--workers", "1") as running:
        yield running


def test_the_server_tells_the_remedy_and_serves_the_rest(server: RunningServer) -> None:
    for name, (_, remedy) in REFUSED.items():
        told = [line["message"] for line in server.lines if line.get("binding") == name]
        assert len(told) == 1, (name, told)
        assert remedy in told[0]
        assert server.invoke(name).status_code != 200
    (warned,) = (line for line in server.lines if line.get("binding") == "reactor")
    assert (warned["level"], REACTOR in warned["message"]) == ("warning", True)
    assert (server.invoke("reactor").status_code, server.invoke("reactor").content) == (200, b"")
    assert server.invoke("good", "text").content == b'"TEXT"'

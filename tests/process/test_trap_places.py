"""Traps tell where, in `sandboxd run` and in hostfuncs: names, and lines where the guest has debug information."""

import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

import hostfuncs
from tests.guests import path

NAMES = '(module $app (func $inner unreachable) (func $outer call $inner) (func (export "_start") call $outer))'
COMPONENT = b"""(component
  (core module $core
    (func $inner unreachable)
    (func $outer (export "run") (result i32) call $inner i32.const 0))
  (core instance $i (instantiate $core))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance (export "wasi:cli/run@0.2.0") (export "run" (func $run))))"""
SOURCE = """void _start(void) {
  volatile int *nowhere = (int *)0xfffffff0;
  *nowhere = 1;
}
"""


def run_guest(guest: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sandboxd", "run", *arguments, str(guest)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)


def test_run_names_the_functions(tmp_path: Path) -> None:
    guest = tmp_path / "app.wasm"
    guest.write_bytes(wasmtime.wat2wasm(NAMES))
    done = run_guest(guest)
    assert done.stderr.splitlines() == [
        "sandboxd: trapped: wasm error: unreachable",
        "sandboxd: wasm stack trace:",
        "\tapp.inner(...)",
        "\tapp.outer(...)",
        "\tapp.$2(...)",
    ]


def test_a_guest_without_names_is_told_of_them(tmp_path: Path) -> None:
    guest = tmp_path / "app.wasm"
    guest.write_bytes(wasmtime.wat2wasm('(module (func unreachable) (func (export "_start") call 0))'))
    done = run_guest(guest)
    assert done.stderr.splitlines()[2:] == [
        "\t.$0(...)",
        "\t.$1(...)",
        "sandboxd: the guest's functions have no names: build it with them (-g, and neither -s nor strip)",
    ]


def test_run_says_that_there_are_no_mounts(tmp_path: Path) -> None:
    done = run_guest(path("stderr"))
    assert "mounts" not in done.stderr


def test_components_name_their_functions_too() -> None:
    result = hostfuncs.run(COMPONENT)
    assert (result.outcome, result.message) == ("trapped", "wasm error: unreachable")
    assert result.trace == "\nwasm stack trace:\n\tcore.inner(...)\n\tcore.outer(...)"


@pytest.mark.build
def test_a_guest_with_debug_information_has_files_and_lines(tmp_path: Path) -> None:
    (tmp_path / "app.c").write_text(SOURCE)
    # Without a C library, which zig would first build with debug information: a minute of computing.
    bare = ["-target", "wasm32-freestanding", "-nostdlib", "-Wl,--no-entry,--export=_start"]
    build = [sys.executable, "-m", "ziglang", "cc", "-g", "-O0", *bare, "app.c", "-o", "app.wasm"]
    subprocess.run(build, cwd=tmp_path, check=True, timeout=300, capture_output=True)
    result = hostfuncs.run(tmp_path / "app.wasm")
    assert result.message == "wasm error: out of bounds memory access"
    assert f"{tmp_path}/app.c:3:" in result.trace

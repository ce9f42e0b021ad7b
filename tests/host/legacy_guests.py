"""Builds the guests of tests/guests/legacy into the cache, keyed by their source and compiler."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.guests import ToolMissingError, go_guest, skip_or_fail
from tests.guests.cache import CACHE, digest, made, npm_tool
from tests.guests.recipes import ASSEMBLYSCRIPT_VERSION

SOURCES = Path(__file__).resolve().parents[1] / "guests" / "legacy"


def _built(name: str, sources: list[Path], compiler: str, command: Callable[[Path], list[str]]) -> Path:
    def make(fresh: Path) -> None:
        done = subprocess.run(command(fresh), capture_output=True, text=True, timeout=600, cwd=SOURCES)
        if done.returncode != 0:
            raise RuntimeError(f"building {name}: {done.stdout}{done.stderr}")

    return made(CACHE / "legacy" / f"{name}-{digest(compiler, *sources)}.wasm", make)


def c_client() -> Path:
    """client.c, by zig cc (in the `dev` extra)."""
    return _c_guest("client")


def c_walk() -> Path:
    """walk.c, likewise."""
    return _c_guest("walk")


def _c_guest(name: str) -> Path:
    try:
        import ziglang  # noqa: F401
    except ModuleNotFoundError:
        skip_or_fail(ToolMissingError("zig", "pip install ziglang"))
    zig = [sys.executable, "-m", "ziglang"]
    version = subprocess.run([*zig, "version"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    sources = [SOURCES / f"{name}.c", SOURCES / "wasi_http.h"]
    return _built(
        name,
        sources,
        version,
        lambda out: [*zig, "cc", "-target", "wasm32-wasi", "-Oz", "-s", "-o", str(out), f"{name}.c"],
    )


def go_fetch() -> Path:
    """fetch/main.go, by the Go toolchain."""
    return go_guest("fetch", SOURCES)


def assemblyscript_get() -> Path:
    """assemblyscript/get.ts, by asc."""
    try:
        tool = npm_tool("assemblyscript", ASSEMBLYSCRIPT_VERSION)
    except ToolMissingError as missing:
        skip_or_fail(missing)
    source = SOURCES / "assemblyscript" / "get.ts"
    return _built(
        "get",
        [source],
        ASSEMBLYSCRIPT_VERSION,
        lambda out: [
            "node",
            str(tool / "bin" / "asc.js"),
            os.path.relpath(source, SOURCES),
            "--outFile",
            str(out),
            "-O",
            "--runtime",
            "stub",
            "--use",
            "abort=",
        ],
    )

"""Builds the guests of tests/guests/legacy into the cache, keyed by their source and compiler."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.guests import ToolMissingError, go_guest, skip_or_fail
from tests.guests.cache import CACHE, npm_tool
from tests.guests.recipes import ASSEMBLYSCRIPT_VERSION

SOURCES = Path(__file__).resolve().parents[1] / "guests" / "legacy"


def _built(name: str, sources: list[Path], compiler: str, command: Callable[[Path], list[str]]) -> Path:
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources) + compiler.encode()).hexdigest()[:16]
    target = CACHE / "legacy" / f"{name}-{digest}.wasm"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            fresh = Path(scratch) / "fresh.wasm"
            done = subprocess.run(command(fresh), capture_output=True, text=True, timeout=600, cwd=SOURCES)
            if done.returncode != 0:
                raise RuntimeError(f"building {name}: {done.stdout}{done.stderr}")
            fresh.replace(target)
    return target


def c_client() -> Path:
    """client.c, by zig cc (in the `dev` extra)."""
    try:
        import ziglang  # noqa: F401
    except ModuleNotFoundError:
        skip_or_fail(ToolMissingError("zig", "pip install ziglang"))
    zig = [sys.executable, "-m", "ziglang"]
    version = subprocess.run([*zig, "version"], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    sources = [SOURCES / "client.c", SOURCES / "wasi_http.h"]
    return _built(
        "client",
        sources,
        version,
        lambda out: [*zig, "cc", "-target", "wasm32-wasi", "-Oz", "-s", "-o", str(out), "client.c"],
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

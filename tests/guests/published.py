"""Programs as others published them, and one that a compiler of Debian builds.

Those of others are files of Go modules, each pinned by the module's digest.
"""

import gzip
import json
import os
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from tests.guests.cache import CACHE, ToolMissingError, digest, made, skip_or_fail


@dataclass(frozen=True, kw_only=True)
class GoModule:
    """A pinned module of Go's module proxy."""

    path: str
    version: str
    sum: str
    """`h1:BASE64`, as `go.sum` has it."""


WAZERO = GoModule(
    path="github.com/tetratelabs/wazero", version="v1.12.0", sum="h1:DuWcpNu/FzgEXgGBDp8J1Spc+CWOvvtvVyjKlaZopYU="
)
WASM_TOOLS = GoModule(
    path="go.bytecodealliance.org", version="v0.7.0", sum="h1:CTJ1eb5kFhBKHw1/xycxxz4SmVWNKXYHhrA78oLNXhY="
)


def go_module_file(module: GoModule, member: str) -> bytes:
    """One file of a module, whose digest is verified.

    Raises:
        ToolMissingError: no Go, or the module cannot be had.
        RuntimeError: the digest is another one.
    """
    if not which("go"):
        raise ToolMissingError("Go", "install Go 1.21 or later")
    at = f"{module.path}@{module.version}"
    # The digest is compared below: Go's database of digests need not be asked.
    environment = os.environ | {"GOFLAGS": "-mod=mod", "GONOSUMDB": "*", "GOTOOLCHAIN": "local"}
    done = subprocess.run(
        ["go", "mod", "download", "-json", at], capture_output=True, text=True, env=environment, timeout=300, cwd="/"
    )
    told = json.loads(done.stdout or "{}")
    if done.returncode or "Zip" not in told:
        raise ToolMissingError(at, str(told.get("Error") or done.stderr)[-300:])
    if told["Sum"] != module.sum:
        raise RuntimeError(f"{at} has the digest {told['Sum']}, not {module.sum}")
    with zipfile.ZipFile(told["Zip"]) as archive:
        return archive.read(f"{at}/{member}")


def _kept(module: GoModule, member: str) -> Path:
    def make(fresh: Path) -> None:
        data = go_module_file(module, member)
        fresh.write_bytes(gzip.decompress(data) if member.endswith(".gz") else data)

    name = Path(member).name.removesuffix(".gz")
    try:
        return made(CACHE / "go-modules" / f"{digest(module.sum, member)}-{name}", make)
    except ToolMissingError as missing:
        skip_or_fail(missing)


def tinygo_cat() -> Path:
    """`cat FILE...`, which wazero's authors built with TinyGo (50 kB) to test their WASI preview 1."""
    return _kept(WAZERO, "imports/wasi_snapshot_preview1/example/testdata/tinygo/cat.wasm")


def wasm_tools() -> Path:
    """wasm-tools 1.230 (4 MB), built for wasm32-wasip1: the component tooling that Go's WIT bindings run in wazero."""
    return _kept(WASM_TOOLS, "internal/wasmtools/wasm-tools.wasm.gz")


CLANG = "clang++-14"
CLANG_FLAGS = ("--target=wasm32-wasi", "-O2", "-fno-exceptions", "-s")
CLANG_PACKAGES = "clang-14 lld-14 wasi-libc libc++-14-dev-wasm32 libc++abi-14-dev-wasm32 libclang-rt-14-dev-wasm32"


def cpp_guest(name: str) -> Path:
    """A guest in C++ (`cpp/NAME.cpp`), built by Debian's clang, which has a libc++ for WASI. That takes seconds."""
    source = Path(__file__).parent / "cpp" / f"{name}.cpp"
    if not which(CLANG) or not Path("/usr/lib/wasm32-wasi/libc++.a").exists():
        remedy = f"apt-get install --no-install-recommends {CLANG_PACKAGES}"
        skip_or_fail(ToolMissingError("clang with a libc++ for WASI", remedy))

    def make(fresh: Path) -> None:
        command = [CLANG, *CLANG_FLAGS, "-o", str(fresh), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")

    version = subprocess.run([CLANG, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return made(CACHE / "cpp" / f"{name}-{digest(source, version, *CLANG_FLAGS)}.wasm", make)

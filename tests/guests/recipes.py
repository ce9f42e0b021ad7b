"""The recipes of the committed guests: one table, and one function per toolchain.

To add a guest, add its source and a line to `GUESTS`. The `.wasm` is committed next to the others, so that tests and
the quickstart need no compiler; `build.py` rebuilds it, and a test compares the rebuild with what is committed.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.guests.cache import CACHE, ToolMissingError, expect_building, npm_tool

ROOT = Path(__file__).resolve().parents[2]
ASSEMBLYSCRIPT_VERSION = "0.28.20"
HERE = Path("tests/guests")
QUICKSTART = Path("deploy/quickstart/guests")


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """One compiler.

    `version()` raises ToolMissingError, with the way to install it, where it is not there. `command(recipe, source,
    output)` is what to run in the repository's root, with relative sources, so that no path of this machine gets into
    the guest.
    """

    name: str
    version: Callable[[], str]
    command: Callable[["Recipe", Path, Path], list[str]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One committed guest. Paths are relative to the repository's root."""

    source: Path
    output: Path
    toolchain: Toolchain
    flags: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()
    """Arguments of the run by which a rebuild is compared when the toolchain's version is another one."""

    @property
    def name(self) -> str:
        return self.output.stem


def _output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


@functools.cache
def _zig_version() -> str:
    try:
        return _output_of(sys.executable, "-m", "ziglang", "version")
    except subprocess.CalledProcessError as error:
        raise ToolMissingError("zig", "pip install -e '.[dev]'") from error


def _zig_cc(recipe: Recipe, source: Path, output: Path) -> list[str]:
    # -fno-sanitize: zig cc adds traps for undefined behaviour, which would change what the trapping guests show
    flags = ["-target", "wasm32-wasi", "-Oz", "-s", "-Wall", "-Wextra", "-Werror", "-Wno-sign-compare"]
    return [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        *flags,
        "-fno-sanitize=undefined",
        *recipe.flags,
        "-o",
        str(output),
        str(source),
    ]


def _zig_exe(recipe: Recipe, source: Path, output: Path) -> list[str]:
    flags = ["-target", "wasm32-wasi", "-O", "ReleaseSmall", "-fstrip", *recipe.flags, f"-femit-bin={output}"]
    return [sys.executable, "-m", "ziglang", "build-exe", *flags, str(source)]


def _asc(recipe: Recipe, source: Path, output: Path) -> list[str]:
    asc = npm_tool("assemblyscript", ASSEMBLYSCRIPT_VERSION) / "bin" / "asc.js"
    flags = ["--runtime", "stub", "-Oz", "--use", f"abort={QUICKSTART}/wasi/abort"]
    return ["node", str(asc), str(source), *flags, *recipe.flags, "-o", str(output)]


RUSTC = "/usr/bin/rustc"
"""Debian's, by its full path: a rustup in front of it on PATH has no wasm32-wasi standard library."""


@functools.cache
def _rust_version() -> str:
    remedy = "apt-get install --no-install-recommends rustc libstd-rust-dev-wasm32 lld-14"
    if not Path(RUSTC).exists() or not shutil.which("wasm-ld-14"):
        raise ToolMissingError("rustc with a wasm32-wasi standard library", remedy)
    libraries = _output_of(RUSTC, "--print", "target-libdir", "--target", "wasm32-wasi")
    if not Path(libraries).is_dir():
        raise ToolMissingError("rust's wasm32-wasi standard library", remedy)
    return _output_of(RUSTC, "--version")


def _rustc(recipe: Recipe, source: Path, output: Path) -> list[str]:
    codegen = ["opt-level=z", "lto=fat", "codegen-units=1", "panic=abort", "strip=symbols"]
    codegen += ["linker=wasm-ld-14", "linker-flavor=wasm-ld"]
    options = [word for setting in codegen for word in ("-C", setting)]
    return [
        RUSTC,
        "--edition",
        "2021",
        "--target",
        "wasm32-wasi",
        *options,
        *recipe.flags,
        "-o",
        str(output),
        str(source),
    ]


C = Toolchain(name="zig cc", version=_zig_version, command=_zig_cc)
ZIG = Toolchain(name="zig", version=_zig_version, command=_zig_exe)
ASSEMBLYSCRIPT = Toolchain(name="assemblyscript", version=lambda: ASSEMBLYSCRIPT_VERSION, command=_asc)
RUST = Toolchain(name="rust", version=_rust_version, command=_rustc)


def _c(name: str, *sample: str, flags: tuple[str, ...] = ()) -> Recipe:
    return Recipe(
        source=HERE / "c" / f"{name}.c", output=HERE / "bin" / f"{name}.wasm", toolchain=C, flags=flags, sample=sample
    )


GUESTS: tuple[Recipe, ...] = (
    _c("args", "one", "two"),
    _c("cat", "3"),
    _c("clock", "id", "9"),
    _c("echo"),
    _c("env"),
    _c("exit", "7", "out", "err"),
    _c("flood", "100000", "999"),
    _c("grow", "take", "5"),
    _c("loop", "nowhere-to-stop"),
    _c("multi", "dump", "one"),
    _c("random", "0"),
    _c("recurse", "1000"),
    _c("sleep"),
    _c("stderr", "one"),
    _c("tiny", "one", flags=("-nostdlib", "-Wl,-z,stack-size=16384")),
    _c("trap", "div"),
    _c("upper"),
    Recipe(source=Path("bench/files.c"), output=HERE / "bin/files-c.wasm", toolchain=C),
    Recipe(source=HERE / "zig/count.zig", output=HERE / "bin/count.wasm", toolchain=ZIG),
    Recipe(source=HERE / "zig/files.zig", output=HERE / "bin/files-zig.wasm", toolchain=ZIG),
    Recipe(
        source=HERE / "assemblyscript/files.ts",
        output=HERE / "bin/files-assemblyscript.wasm",
        toolchain=ASSEMBLYSCRIPT,
    ),
    Recipe(source=HERE / "rust/files.rs", output=HERE / "bin/files-rust.wasm", toolchain=RUST),
    Recipe(
        source=HERE / "assemblyscript/sort.ts", output=HERE / "bin/sort.wasm", toolchain=ASSEMBLYSCRIPT, sample=("-r",)
    ),
    Recipe(source=HERE / "rust/tally.rs", output=HERE / "bin/tally.wasm", toolchain=RUST, sample=("the",)),
    Recipe(source=QUICKSTART / "upper.c", output=QUICKSTART / "upper.wasm", toolchain=C),
    Recipe(source=QUICKSTART / "greet.zig", output=QUICKSTART / "greet.wasm", toolchain=ZIG, sample=("you",)),
    Recipe(
        source=QUICKSTART / "filter.ts",
        output=QUICKSTART / "filter.wasm",
        toolchain=ASSEMBLYSCRIPT,
        sample=("price", "<", "10"),
    ),
)

VERSIONS = HERE / "versions.json"
"""Which version of each toolchain the committed guests were built with."""


def committed_versions() -> dict[str, str]:
    """Toolchain name -> version, for what is committed."""
    versions: dict[str, str] = json.loads((ROOT / VERSIONS).read_text())
    return versions


def build(recipe: Recipe, output: Path) -> None:
    """Builds `recipe` from its source into the file `output`.

    Raises:
        ToolMissingError: its compiler is not installed.
        RuntimeError: the compiler failed; the text is its output.
    """
    expect_building(recipe.name)
    recipe.toolchain.version()
    output.parent.mkdir(parents=True, exist_ok=True)
    # zig keeps objects of earlier builds; in the cache folder they neither litter the home nor hide what was built
    environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig"), "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig")}
    command = recipe.toolchain.command(recipe, recipe.source, output.resolve())
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0 or not output.is_file():
        raise RuntimeError(
            f"{recipe.source}: {' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    output.chmod(0o644)

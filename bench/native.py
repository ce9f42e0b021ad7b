"""Builds bench/generator.c when it is first needed, with the C compiler of the `ziglang` package (extra `dev`).

What is built stays in `.cache/bench` under the digest of source, flags and compiler, so that a change of any of them
builds it anew; it appears there by rename, so that several runs may share it.
"""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.measure import ROOT

CACHE = ROOT / ".cache" / "bench"
SOURCE = Path(__file__).with_name("generator.c")
HEADERS = (Path(__file__).with_name("twister.h"),)
FLAGS = ("-std=c11", "-O2", "-mcpu=baseline", "-Wall", "-Wextra", "-Werror")
ZIG = (sys.executable, "-m", "ziglang", "cc")
BUILD_S = 120.0


class UnavailableError(Exception):
    """The generator cannot be built here.

    Parameters:
        why: what is missing, or what the compiler said.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"bench/generator.c cannot be built: {why}")


def generator(cache: Path = CACHE, compiler: Sequence[str] = ZIG) -> Path:
    """The native load generator, built unless it is there.

    Parameters:
        cache: folder for what is built; made if it is missing.
        compiler: command of a C compiler.

    Raises:
        UnavailableError: no compiler, or it failed.
    """
    if sys.platform != "linux":
        raise UnavailableError("it needs epoll and timerfd, which only Linux has")
    target = cache / f"generator-{_key(compiler)}"
    if target.is_file():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fresh = Path(scratch) / "generator"
        _compile([*compiler, *FLAGS, "-o", str(fresh), str(SOURCE), "-lm"], cache / "zig")
        fresh.replace(target)
    return target


def _key(compiler: Sequence[str]) -> str:
    try:
        version = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    digest = hashlib.sha256("\0".join((*compiler, *FLAGS, version, platform.machine())).encode())
    for file in (SOURCE, *HEADERS):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _compile(command: list[str], objects: Path) -> None:
    environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": str(objects), "ZIG_GLOBAL_CACHE_DIR": str(objects)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, env=environment)
    except OSError as error:
        raise UnavailableError(str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]} has not ended within {BUILD_S:.0f} s") from error
    if done.returncode == 0:
        return
    if "No module named ziglang" in done.stderr:
        raise UnavailableError("pip install -e '.[dev]' brings its compiler")
    raise UnavailableError(f"{command[0]} exited with {done.returncode}: {done.stderr.strip()}")

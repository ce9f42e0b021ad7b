"""Compiles `preview1.c` beside it, where there is a C compiler: `python hostfuncs/native/build.py`.

The package's build runs this when the package is installed (`hatch_build.py`). It imports nothing but the standard
library. The compiler is `$CC`, or the first of cc, gcc and clang that there is, or that of the `ziglang` package if it
is installed here. A compiler needs no headers and no libc: see preview1.c. `HOSTFUNCS_NATIVE=off` builds nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SOURCE = Path(__file__).with_name("preview1.c")
LIBRARY = Path(__file__).with_name("_preview1.so")

FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-nostdlib", "-Wall", "-Wextra")
HARDENED = ("-fstack-protector-strong", "-Wl,-z,relro,-z,now,-z,noexecstack")
BUILD_S = 120.0


class UnavailableError(Exception):
    """It cannot be built here. The text says why."""


def compilers(environ: Mapping[str, str]) -> list[list[str]]:
    """Return the commands of the C compilers to try, in this order."""
    if chosen := environ.get("CC"):
        return [shlex.split(chosen)]
    found = [[name] for name in ("cc", "gcc", "clang") if shutil.which(name, path=environ.get("PATH"))]
    if importlib.util.find_spec("ziglang") is not None:
        # Without this, zig compiles for the very processor that it runs on.
        found.append([sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"])
    return found


def build(target: Path = LIBRARY, environ: Mapping[str, str] | None = None) -> Path:
    """Build the library, and put it in place at once.

    Parameters:
        target: where it goes.
        environ: the environment of the compiler; by default that of this process.

    Raises:
        UnavailableError: there is no compiler, or none that makes a library from this source.
    """
    environ = os.environ if environ is None else environ
    if environ.get("HOSTFUNCS_NATIVE") == "off":
        raise UnavailableError("HOSTFUNCS_NATIVE is off")
    if not sys.platform.startswith("linux"):
        raise UnavailableError(f"it is made for Linux, and this is {sys.platform}")
    reasons = []
    for command in compilers(environ):
        try:
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                fresh = Path(scratch) / target.name
                _compile(command, fresh, environ)
                fresh.replace(target)
        except (UnavailableError, OSError) as error:
            reasons.append(f"{shlex.join(command)}: {error}")
        else:
            return target
    raise UnavailableError("; ".join(reasons) or "there is no C compiler")


def _compile(command: Sequence[str], output: Path, environ: Mapping[str, str]) -> None:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    # zig would keep a cache in the home directory, which the user of a build need not have.
    objects = {f"ZIG_{scope}_CACHE_DIR": str(output.parent / "zig") for scope in ("LOCAL", "GLOBAL")}
    last = ""
    # A compiler that does not know how to harden is good enough: the code does nothing that needs it.
    for flags in ((*FLAGS, *HARDENED), FLAGS):
        whole = [*command, *flags, f'-DSOURCE="{digest}"', "-o", str(output), str(SOURCE)]
        try:
            done = subprocess.run(whole, capture_output=True, text=True, timeout=BUILD_S, env={**objects, **environ})
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"it has not ended within {BUILD_S:.0f} s") from None
        if done.returncode == 0:
            return
        last = done.stderr.strip()
    raise UnavailableError(last.splitlines()[-1] if last else "it failed")


def main() -> None:
    """Build, and say what came of it. Always succeeds: without the library everything runs in Python."""
    try:
        print(f"built {build()} for {platform.machine()}")
    except UnavailableError as error:
        print(f"the host functions stay in Python: {error}")


if __name__ == "__main__":
    main()

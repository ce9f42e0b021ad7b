"""Component guests, built from the sources beside this file into the cache, by digest of everything that goes in."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from tests.guests.cache import CACHE, ToolMissingError, npm_tool, skip_or_fail

HERE = Path(__file__).parent
WIT = HERE / "wit"
COMPONENTIZE_JS = ("@bytecodealliance/componentize-js", "0.23.0")
_TIMEOUT_S = 600


def _digest(*parts: bytes | Path) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()[:16]


def _wit_files() -> list[Path]:
    return sorted(WIT.rglob("*.wit"))


def _run(command: list[str], *, cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}:\n{done.stdout}{done.stderr}")


def python_component(name: str, world: str) -> Path:
    """NAME.py as a component of a world of wit/world.wit; takes half a minute the first time."""
    try:
        version = metadata.version("componentize-py")
    except metadata.PackageNotFoundError:
        skip_or_fail(ToolMissingError("componentize-py", "pip install -e '.[dev]'"))
    source = HERE / f"{name}.py"
    key = _digest(version.encode(), world.encode(), source, *_wit_files())
    target = CACHE / "component" / f"{name}-py-{key}.wasm"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            # In a folder of its own: the name of the module is part of the guest, its place is not.
            shutil.copy(source, Path(scratch) / "app.py")
            command = [str(Path(sys.executable).with_name("componentize-py")), "-d", str(WIT), "-w", world]
            _run([*command, "componentize", "app", "-o", "app.wasm"], cwd=Path(scratch))
            (Path(scratch) / "app.wasm").replace(target)
    return target


def javascript_component(name: str, world: str) -> Path:
    """NAME.js as a component of a world of wit/world.wit; takes a minute the first time."""
    try:
        modules = npm_tool(*COMPONENTIZE_JS).parents[1]
    except ToolMissingError as missing:
        skip_or_fail(missing)
    source = HERE / f"{name}.js"
    script = HERE / "componentize.mjs"
    key = _digest(COMPONENTIZE_JS[1].encode(), world.encode(), source, script, *_wit_files())
    target = CACHE / "component" / f"{name}-js-{key}.wasm"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            output = Path(scratch) / "out.wasm"
            _run(
                ["node", str(script), str(modules), str(source), str(WIT), world, str(output)],
                cwd=Path(scratch),
            )
            output.replace(target)
    return target

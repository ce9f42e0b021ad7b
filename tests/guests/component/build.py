"""Component guests, built from the sources beside this file into the cache, by digest of everything that goes in."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from tests.guests.cache import CACHE, ToolMissingError, digest, made, npm_tool, skip_or_fail

HERE = Path(__file__).parent
WIT = HERE / "wit"
COMPONENTIZE_JS = ("@bytecodealliance/componentize-js", "0.23.0")
_WASI = "0.2.12"
_TIMEOUT_S = 600


def _wit_files() -> list[Path]:
    return sorted(WIT.rglob("*.wit"))


def _run(command: list[str], *, cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} exited with {done.returncode}:\n{done.stdout}{done.stderr}")


def python_component(name: str, world: str) -> Path:
    """NAME.py, with its modules NAME_*.py, as a component of a world of wit/world.wit.

    It takes half a minute the first time.
    """
    try:
        version = metadata.version("componentize-py")
    except metadata.PackageNotFoundError:
        skip_or_fail(ToolMissingError("componentize-py", "pip install -e '.[dev]'"))
    source, modules = HERE / f"{name}.py", sorted(HERE.glob(f"{name}_*.py"))

    def make(fresh: Path) -> None:
        # In a folder of its own: the name of the module is part of the guest, its place is not.
        shutil.copy(source, fresh.with_name("app.py"))
        for module in modules:
            shutil.copy(module, fresh.with_name(module.name))
        command = [str(Path(sys.executable).with_name("componentize-py")), "-d", str(WIT), "-w", world]
        _run([*command, "componentize", "app", "-o", fresh.name], cwd=fresh.parent)

    key = digest(version, world, source, *modules, *_wit_files())
    return made(CACHE / "component" / f"{name}-py-{key}.wasm", make)


def command_component(core: Path) -> Path:
    """A command of preview 1 as one of WASI 0.2, by the adapter that comes with jco."""
    try:
        jco = npm_tool(*COMPONENTIZE_JS).parent / "jco"
    except ToolMissingError as missing:
        skip_or_fail(missing)

    def make(fresh: Path) -> None:
        command = ["node", str(jco / "dist" / "jco.js"), "new", str(core), "--wasi-command", "-o", str(fresh)]
        _run(command, cwd=fresh.parent)

    return made(CACHE / "component" / f"{core.stem}-{digest(core, COMPONENTIZE_JS[1])}.wasm", make)


def javascript_component(name: str, world: str, *, wasi: str = _WASI) -> Path:
    """NAME.js as a component of a world of wit/world.wit; takes a minute the first time.

    Parameters:
        wasi: the version of WASI to build for. What listens for `fetch` needs the one that StarlingMonkey has.
    """
    try:
        modules = npm_tool(*COMPONENTIZE_JS).parents[1]
    except ToolMissingError as missing:
        skip_or_fail(missing)
    source = HERE / f"{name}.js"
    script = HERE / "componentize.mjs"

    def make(fresh: Path) -> None:
        wit = shutil.copytree(WIT, fresh.with_name("wit"))
        for file in wit.rglob("*.wit"):
            file.write_text(file.read_text().replace(_WASI, wasi))
        command = ["node", str(script), str(modules), str(source), str(wit), world, str(fresh)]
        _run(command, cwd=fresh.parent)

    other = () if wasi == _WASI else (wasi,)
    key = digest(COMPONENTIZE_JS[1], world, source, script, *_wit_files(), *other)
    return made(CACHE / "component" / f"{name}-js-{key}.wasm", make)

"""`sandboxd new`: what it makes builds with the command it names, passes its test, and is served as it stands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests import ToolMissingError, skip_or_fail
from tests.guests.cache import npm_tool
from tests.guests.component.build import COMPONENTIZE_JS
from tests.guests.recipes import RUST

BIN = Path(sys.executable).parent
TEMPLATES = Path("sandboxd/commands/templates")


def command(*words: str, cwd: Path, **rest: str) -> "subprocess.CompletedProcess[str]":
    path = f"{BIN}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, **rest}
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=900, env=environ, input='"hello"')


def begin(language: str, folder: Path) -> tuple[Path, str]:
    """Make a guest; its folder and the command that builds it, as its README has it."""
    made = command("sandboxd", "new", language, "shout", cwd=folder)
    assert made.returncode == 0, made.stderr
    (block,) = re.findall(r"```sh\n(.*?)```", (folder / "shout/README.md").read_text(), re.DOTALL)
    build = block.splitlines()[0]
    assert f"  {build}\n" in made.stdout
    return folder / "shout", build


def require(language: str, folder: Path, build: str) -> str:
    """Skip where the compiler is missing; the command as it must be on this machine."""
    try:
        if language in ("c", "zig"):
            pytest.importorskip("ziglang", reason="needs zig: pip install -e '.[dev]'")
        elif language == "go" and not shutil.which("go"):
            raise ToolMissingError("go", "install Go")
        elif language == "rust":
            RUST.version()
            # Debian's compiler has the target's former name, and a linker of its own.
            options = "-C linker=wasm-ld-14 -C linker-flavor=wasm-ld"
            return build.replace("rustc", "/usr/bin/rustc").replace("wasm32-wasip1", f"wasm32-wasi {options}")
        elif language == "python" and not (BIN / "componentize-py").exists():
            raise ToolMissingError("componentize-py", "pip install -e '.[dev]'")
        elif language == "js":
            # The package that tests have anyway: none need the registry a second time.
            (folder / "node_modules").symlink_to(npm_tool(*COMPONENTIZE_JS).parents[1])
            return build.partition("&& ")[2]
    except ToolMissingError as missing:
        skip_or_fail(missing)
    return build


@pytest.mark.build
@pytest.mark.slow  # compilers, once each
@pytest.mark.parametrize("language", ["c", "zig", "go", "rust", "python", "js"])
def test_what_it_makes_works(language: str, tmp_path: Path) -> None:
    folder, build = begin(language, tmp_path)
    built = command("bash", "-c", require(language, folder, build), cwd=folder, PYTHON=sys.executable)
    assert built.returncode == 0, built.stdout + built.stderr
    if language == "js":
        # To compile its engine takes a minute. Guests with the same one are run by tests/host/test_wasip2_command.py.
        assert (folder / "shout.wasm").read_bytes()[4:8] == b"\x0d\0\1\0"
        return
    ran = command("sandboxd", "run", "shout.wasm", cwd=folder)
    assert (ran.returncode, ran.stdout) == (0, '"HELLO"'), ran.stderr
    if language == "c":
        checked = command("sandboxd", "check", "--resources-path", "components", cwd=folder)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        tested = command(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
        assert tested.returncode == 0, tested.stdout


@pytest.mark.parametrize("name", ["../out", "-x", "A", "a b", "", "a" * 64])
def test_no_name_of_a_guest(name: str, tmp_path: Path) -> None:
    made = command("sandboxd", "new", "c", "--", name, cwd=tmp_path)
    assert made.returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "shout").mkdir()
    made = command("sandboxd", "new", "c", "shout", cwd=tmp_path)
    assert (made.returncode, list((tmp_path / "shout").iterdir())) == (2, [])
    assert "choose another name" in made.stderr


def test_the_interfaces_are_those_that_guests_of_the_tests_are_built_with() -> None:
    ours = Path("tests/guests/component/wit/deps")
    for file in ours.rglob("*.wit"):
        assert (TEMPLATES / "wit-deps" / file.relative_to(ours)).read_bytes() == file.read_bytes()

"""No process of ours imports from the working directory, whatever lies in it.

Does not show what `python -m` itself does before it comes to our first line: see sandboxd/__main__.py.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import guest_component
from tests.guests import path
from tests.process.cells import Cells
from tests.running import RunningServer, write_components

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = ("org", "sitecustomize", "usercustomize", "sandboxd_site")
"""What libraries look for only in case it is there; copy.py of CPython looks for Jython's `org`."""
EVERYTHING = {*sys.stdlib_module_names, *packages_distributions(), "sandboxd", "hostfuncs", *FOREIGN} - {"__future__"}


def trapped(folder: Path, names: Iterable[str]) -> Path:
    """A folder with a module of each name, half of them packages, that leaves a file where it was imported."""
    folder.mkdir()
    sprung = folder.parent / "sprung"
    code = f"import os\nos.close(os.open({str(sprung)!r} + '-' + __name__, os.O_CREAT))\nraise SystemExit(99)\n"
    for number, name in enumerate(sorted(names)):
        place = folder / name / "__init__.py" if number % 2 else folder / f"{name}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text(code)
    return folder


def sprung(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.parent.glob("sprung*"))


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return trapped(tmp_path / "trap", EVERYTHING)


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    return write_components(tmp_path / "resources", [guest_component("echo"), guest_component("wasi_http", "tiny")])


def run(command: Sequence[str], cwd: Path, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    return subprocess.run(command, cwd=cwd, env=environ, input=b"hello\n", capture_output=True, timeout=120)


PROGRAM = [sys.executable, "-P", "-m", "sandboxd"]
SCRIPT = [
    sys.executable,
    "-P",
    "-c",
    "import sys; sys.argv[0] = 'sandboxd'; from sandboxd.__main__ import main; main()",
]


def test_the_traps_work(trap: Path) -> None:
    """The counter-proof."""
    assert run([sys.executable, "-c", "import copy"], trap).returncode == 99
    assert sprung(trap) == ["sprung-copy"]


@pytest.mark.parametrize(
    ("command", "search"), [(SCRIPT, None), (PROGRAM, None), (PROGRAM, "."), (PROGRAM, f"{ROOT}:"), (SCRIPT, "::x")]
)
def test_run_check_and_compile_in_a_trapped_folder(
    trap: Path, resources: Path, tmp_path: Path, command: list[str], search: str | None
) -> None:
    variables = {"SANDBOXD_CACHE_FOLDER": str(tmp_path / "cache")}
    if search is not None:
        # What an entry that depends on the working directory brings in before our first line is the operator's.
        variables["PYTHONPATH"] = search
        trap = trapped(tmp_path / "late", EVERYTHING - loaded_at_start())
    done = run([*command, "run", str(path("upper"))], trap, **variables)
    assert (done.returncode, done.stdout) == (0, b"HELLO\n"), done.stderr
    for name in ("check", "compile"):
        done = run([*command, name, "--resources-path", str(resources)], trap, **variables)
        assert done.returncode == 0, done.stderr
    assert sprung(trap) == []


def loaded_at_start() -> set[str]:
    """Return the modules that an interpreter started with `-m` imports before it runs the module and its package."""
    code = "import runpy, sys, sandboxd; print(*{name.partition('.')[0] for name in sys.modules})"
    listed = run([sys.executable, "-P", "-c", code], ROOT).stdout.decode().split()
    return {*listed, "sitecustomize", "usercustomize", "sandboxd_site"}


def test_python_dash_m_imports_nothing_more_from_there_once_it_runs(tmp_path: Path) -> None:
    trap = trapped(tmp_path / "trap", EVERYTHING - loaded_at_start())
    done = run([sys.executable, "-m", "sandboxd", "run", str(path("upper"))], trap)
    assert (done.returncode, done.stdout) == (0, b"HELLO\n"), done.stderr
    assert sprung(trap) == []


def test_a_source_tree_that_is_not_installed_runs_without_its_folder_first(tmp_path: Path) -> None:
    """From the tree itself, as `python -m sandboxd`: its children find it, behind the standard library."""
    tree_ = tmp_path / "tree"
    tree_.mkdir()
    for name in ("sandboxd", "hostfuncs"):
        (tree_ / name).symlink_to(ROOT / name)
    trapped(tmp_path / "names", ["antigravity"])
    (tree_ / "copy.py").write_text((tmp_path / "names" / "antigravity.py").read_text())
    resources = write_components(tmp_path / "resources", [guest_component("tiny")])
    done = run(
        [sys.executable, "-m", "sandboxd", "compile", "--resources-path", str(resources)],
        tree_,
        SANDBOXD_CACHE_FOLDER=str(tmp_path / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("sprung*")) == []


@pytest.mark.parametrize("kind", [RunningServer, Cells], ids=["one", "cells"])
@pytest.mark.parametrize("search", [None, f"{ROOT}:."])
def test_a_server_in_a_trapped_folder(
    trap: Path,
    resources: Path,
    tmp_path: Path,
    kind: type[RunningServer],
    search: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environ = {"SANDBOXD_CACHE_FOLDER": str(tmp_path / "cache")}
    if search is not None:
        environ["PYTHONPATH"] = search
        trap = trapped(tmp_path / "late", EVERYTHING - loaded_at_start())
    with kind(resources, "--workers", "2", cwd=trap, environ=environ, interpreter=("-P",)) as server:
        assert server.invoke("echo", "hello").json() == "hello"
        assert server.metric("sandboxd_pool_workers", state="idle") >= 2
        for process in server.processes():
            command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            assert b"-P" in command, command
    assert sprung(trap) == []

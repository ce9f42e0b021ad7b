"""`sandboxd run` with a component file or a binding's name: what the component says holds."""

from pathlib import Path

import pytest

from sandboxd.errors import ExitCode
from tests.guests import path as guest
from tests.process.test_cli import sandboxd_command
from tests.running import component, write_components


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    documents = [
        component("slow", f"file://{guest('loop')}", timeout="150ms"),
        component("variables", f"file://{guest('env')}", **{"env.COLOUR": "red", "env.SIZE": "9"}),
    ]
    write_components(folder, documents)
    (folder / "one.yaml").write_text(component("upper", f"file://{guest('upper')}"))
    (folder / "small.yaml").write_text(component("small", f"file://{guest('upper')}", memoryLimit="64Ki"))
    (folder / "wrong.yaml").write_text(component("wrong", f"file://{guest('upper')}", memoryLimit="much"))
    return folder


def test_a_component_file(folder: Path) -> None:
    done = sandboxd_command("run", str(folder / "one.yaml"), stdin=b"hello")
    assert (done.returncode, done.stdout) == (0, b"HELLO"), done.stderr


def test_a_name(folder: Path) -> None:
    shown = sandboxd_command("run", "--resources-path", str(folder), "--env", "SIZE=10", "variables")
    assert shown.returncode == 0, shown.stderr
    assert {b"COLOUR=red", b"SIZE=10"} <= set(shown.stdout.splitlines())
    assert b"SIZE=9" not in shown.stdout


def test_its_limits_hold(folder: Path) -> None:
    done = sandboxd_command("run", "--resources-path", str(folder), "slow")
    assert (done.returncode, b"deadline_exceeded" in done.stderr) == (ExitCode.FAILED, True)
    done = sandboxd_command("run", str(folder / "small.yaml"))
    assert (done.returncode, b"memory_exceeded" in done.stderr) == (ExitCode.FAILED, True)
    # Another limit for this once.
    assert sandboxd_command("run", "--memory-limit", "64Mi", str(folder / "small.yaml"), stdin=b"x").stdout == b"X"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["components.yaml"], ExitCode.USAGE, b"has several bindings: slow, variables"),
        (["wrong.yaml"], ExitCode.COMPONENT, b"memoryLimit"),
        (["--resources-path", ".", "nobody"], ExitCode.COMPONENT, b"there is no binding nobody; there are: "),
        (["--resources-path", ".", "wrong"], ExitCode.COMPONENT, b"memoryLimit"),
        (["nothing.yaml"], ExitCode.COMPONENT, b"nothing.yaml is not a file"),
        (["nobody"], ExitCode.COMPONENT, b"--resources-path"),
        (["--memory-limit", "much", "one.yaml"], ExitCode.USAGE, b"--memory-limit"),
        (["--allow-host", "no scheme", "one.yaml"], ExitCode.USAGE, b"--allow-host no scheme"),
    ],
)
def test_mistakes_name_their_cause(arguments: list[str], status: ExitCode, text: bytes, folder: Path) -> None:
    done = sandboxd_command("run", *arguments, cwd=folder)
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert b"Traceback" not in done.stderr

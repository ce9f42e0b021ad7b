"""Shared by the tests of deploy/: its path, and outside tools."""

import shutil
import subprocess
from pathlib import Path

from tests.guests import ToolMissingError, skip_or_fail
from tests.guests.cache import ROOT

DEPLOY = ROOT / "deploy"


def run_tool(*command: str, package: str, cwd: Path = DEPLOY) -> None:
    """Runs a checker that must succeed; its output is the assertion's text.

    Parameters:
        command: program and arguments.
        package: the Debian package it comes from, for the text of the skip.
        cwd: where it runs.
    """
    if not shutil.which(command[0]):
        skip_or_fail(ToolMissingError(command[0], f"apt-get install --no-install-recommends {package}"))
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"

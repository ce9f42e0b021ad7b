"""The README's tour, pasted whole into a shell: it compiles a guest, serves it and calls it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.links import ROOT
from tests.running import listening_socket

TIMEOUT_S = 600
"""A machine on which zig has built no C library yet takes minutes for it when it is busy."""


def tour() -> str:
    """The shell block of the README's section Tour."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Tour\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return block


@pytest.mark.build
@pytest.mark.build
@pytest.mark.slow
def test_the_tour_can_be_pasted_whole(tmp_path: Path) -> None:
    pytest.importorskip("ziglang", reason="the tour's C compiler; the extra dev brings it")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with listening_socket() as listener:
        # The tour's port may be taken: the server gets a socket of ours instead.
        port = listener.getsockname()[1]
        script = tour().replace("localhost:3500", f"127.0.0.1:{port}")
        script = script.replace("sandboxd serve ", f"sandboxd serve --fd {listener.fileno()} ")
        (install,) = re.findall(r"^\S+ -m pip install .*$", script, re.MULTILINE)
        script = script.replace(install, "")  # it is installed; tests need no network
        shell = subprocess.Popen(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env={**os.environ, "SANDBOXD_CELLS": "1", "no_proxy": "*"},
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    try:
        out, err = shell.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        out, err = shell.communicate()
        pytest.fail(f"the tour took more than {TIMEOUT_S} s: {out.decode()} {err.decode()}")
    output = out.decode()
    assert shell.returncode == 0, err.decode()
    (promised,) = re.findall(
        r"^The call answers `(.*?)`", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert promised in output
    assert "HELLO\n" in output, "what `sandboxd run` prints"
    assert re.search(r'^sandboxd_requests_total\{binding="shout",.*outcome="completed".*\} 1\.0$', output, re.MULTILINE)

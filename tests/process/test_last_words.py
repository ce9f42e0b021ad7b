"""A zygote that never answers, or dies, ends the start after a bounded time; the error tells what it wrote last.

The compiler's counterpart is in test_compile.py.
"""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from sandboxd.limits import EngineSettings
from sandboxd.wire import messages as m
from sandboxd.zygote.client import ZygoteClient, ZygoteError
from tests.conftest import guest_component
from tests.process import tree
from tests.running import RunningServer, write_components
from tests.waiting import BOUND_S, until

STOPPING = Path(__file__).parent / "stopping"
"""A folder for PYTHONPATH with which zygotes stop at their start."""
LOAD = m.Load(engine=EngineSettings(), outbound=m.OutboundSettings(), guests=())


class Deaf:
    """Events nobody waits for here."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


async def start(timeout_s: float) -> str:
    client = ZygoteClient(Deaf())  # type: ignore[arg-type]
    try:
        with pytest.raises(ZygoteError) as caught:
            await client.start(LOAD, timeout_s)
    finally:
        await client.close()
    assert client.pid is not None
    assert tree.state(client.pid) == ""
    return str(caught.value)


@pytest.fixture
def zygote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in the place of the interpreter."""
    program = tmp_path / "zygote"
    monkeypatch.setattr(sys, "executable", str(program))
    return program


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("size", [3, 4_000_000], ids=["small", "more-than-a-pipe-holds"])
def test_one_that_never_answers_is_killed(zygote: Path, size: int) -> None:
    write(zygote, f"head -c {size} /dev/zero | tr '\\0' x >&2; printf 'stuck \\033[2J' >&2; exec sleep 60")
    said = asyncio.run(start(6))
    assert said.startswith("the zygote did not load the guests within 6 s and was killed; its last words: ")
    assert "stuck" in said
    assert said.isprintable()
    assert "pool.loadTimeout" in said
    assert len(said) < 6_000


def test_one_that_dies_says_why(zygote: Path) -> None:
    write(zygote, "echo 'ModuleNotFoundError: no module' >&2; exit 3")
    said = asyncio.run(start(20))
    assert said == (
        "the zygote died while loading (exit status 3); its last words: ModuleNotFoundError: no module"
    ) or said.startswith("the zygote died before it had read which guests to load: ")
    assert "ModuleNotFoundError" in said


def test_a_silent_one(zygote: Path) -> None:
    write(zygote, "exec sleep 60")
    assert "it wrote nothing to standard error" in asyncio.run(start(0.5))


def test_a_server_whose_zygote_hangs_says_what_it_waits_for_and_ends(tmp_path: Path) -> None:
    resources = write_components(tmp_path / "resources", [guest_component("echo")])
    environ = {"SANDBOXD_POOL_LOAD_TIMEOUT": "10s", "SANDBOXD_LISTEN_WHEN_READY": "false"}
    environ |= {"PYTHONPATH": str(STOPPING), "PYTHON_STOPS_IF": str(resources)}
    with RunningServer(resources, "--workers", "1", environ=environ, wait=False, bind=True) as server:
        until(lambda: any(tree.state(pid) == "T" for pid in tree.zygotes(server)), "a zygote that has stopped")
        with server.client() as client:
            answer = client.get("/readyz")
        assert answer.status_code == 503
        assert re.fullmatch(
            r"not ready: components\nwaiting: the zygote of generation 1 loads 1 guests, for \d+ s", answer.text
        ), answer.text
        with tree.watched(server.processes()) as gone:
            assert server.process.wait(BOUND_S) == 67
            assert gone(BOUND_S) == []
        assert "the zygote did not load the guests within 10 s" in server.text()

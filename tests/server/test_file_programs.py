"""Real programs that work on files, behind a real server, and beside wasmtime's command line."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.cache import ROOT, ToolMissingError, skip_or_fail
from tests.guests.programs import COMMAND, FILES, HANDLER, PROGRAMS, Program, metadata, table
from tests.host.wasmtime_cli import COMPILED, compiled, wasmtime
from tests.running import RunningServer, component, write_components

# Slow where no artifact is kept yet: four interpreters are compiled.
pytestmark = [pytest.mark.build, pytest.mark.slow]

SERVED = [program for program in PROGRAMS if program.served]
COMMANDS = [program for program in PROGRAMS if program.abi != HANDLER]
LACKING = [program for program in SERVED if program.lacking is not None]


def name_of(program: Program) -> str:
    return program.name


def binding(program: Program) -> str:
    return f"b{PROGRAMS.index(program)}"


def file_of(program: Program) -> Path | None:
    """Its module; None if this machine need not have it."""
    try:
        return program.file()
    except ToolMissingError as missing:
        if not program.optional:
            skip_or_fail(missing)
        return None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name in ("data", "out"):
        (folder / name).mkdir()
    for name, text in FILES.items():
        (folder / "data" / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[RunningServer]:
    mounts = [{"source": "data", "target": "/data"}, {"source": "out", "target": "/out", "readOnly": False}]
    documents = [
        component(
            binding(program),
            f"file://{file}",
            mounts=json.dumps(mounts),
            tmp='{"target": "/tmp"}',
            **{f"env.{name}": value for name, value in program.env.items()},
        )
        for program in SERVED
        if (file := file_of(program)) is not None
    ]
    # On a machine that is busy with other tests, the interpreters take longer than a component may by default.
    documents = [text.replace("  version: v1\n", "  version: v1\n  initTimeout: 170s\n") for text in documents]
    with RunningServer(write_components(data, documents), "--workers", "1") as running:
        yield running


def needs(program: Program) -> None:
    if file_of(program) is None:
        pytest.skip(f"{program.name} is not installed")


@pytest.mark.parametrize("program", SERVED, ids=name_of)
def test_it_does_its_job(server: RunningServer, program: Program) -> None:
    needs(program)
    reply = server.invoke(binding(program), program.stdin or None, metadata(program))
    assert (reply.status_code, reply.content) == (200, program.stdout), reply.text


@pytest.mark.parametrize("program", LACKING, ids=name_of)
def test_a_folder_that_it_has_not_makes_it_fail(server: RunningServer, program: Program) -> None:
    needs(program)
    reply = server.invoke(binding(program), None, metadata(program, ("/lacking", *program.args[1:])))
    assert f"exit_code({program.lacking})" in reply.json()["message"], reply.text


@pytest.mark.parametrize("program", COMMANDS, ids=name_of)
def test_it_ends_as_in_wasmtime(data: Path, tmp_path: Path, program: Program) -> None:
    needs(program)
    try:
        command = [wasmtime(), "run", *COMPILED, *(f"--env={k}={v}" for k, v in program.env.items())]
    except ToolMissingError as missing:
        skip_or_fail(missing)
    if program.abi == COMMAND:
        command += ["-S", "http"]
    folders = {"/data": data / "data", "/out": data / "out", "/tmp": tmp_path}
    command += [f"--dir={source}::{target}" for target, source in folders.items()] + [str(compiled(program.file()))]
    done = subprocess.run(
        [*command, *program.args], input=program.stdin.encode(), capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, program.stdout), done.stderr
    if program.lacking is not None:
        failed = subprocess.run(
            [*command, "/lacking", *program.args[1:]], capture_output=True, timeout=120, check=False
        )
        assert failed.returncode == program.lacking


def test_the_documentation_has_the_tables() -> None:
    text = (ROOT / "docs" / "guests.md").read_text()
    assert f"<!-- programs: made by `python -m tests.guests.programs` -->\n{table()}<!-- end -->" in text

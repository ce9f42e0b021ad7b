"""Arbitrary calls in arbitrary order: whatever a guest passes, it is told, ended, or served; the host never fails."""

import random
from pathlib import Path

import pytest

from hostfuncs import wasip1
from hostfuncs.abi import GuestEnded
from hostfuncs.files import FileSettings, Mount, Tmp
from hostfuncs.limits import Limits
from tests.host.wat import LETTERS, Bench

PAGE = 65536
INTERESTING = (
    0,
    1,
    2,
    3,
    4,
    8,
    47,
    48,
    1024,
    1025,
    PAGE - 8,
    PAGE - 1,
    PAGE,
    2 * PAGE,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
)


def everything() -> str:
    imports, functions = [], []
    for name, function in wasip1.FUNCTIONS.items():
        types = " ".join(LETTERS[letter] for letter in function.params)
        gets = " ".join(f"(local.get {at})" for at in range(len(function.params)))
        result = "(result i32)" if function.result else ""
        imports.append(f'(import "{wasip1.MODULE}" "{name}" (func ${name} (param {types}) {result}))')
        functions.append(f'(func (export "{name}") (param {types}) {result} (call ${name} {gets}))')
    return f'(module {" ".join(imports)} (memory (export "memory") 1 4) {" ".join(functions)})'


def number(draw: random.Random, letter: str) -> int:
    value = draw.choice(INTERESTING) if draw.random() < 0.7 else draw.randrange(1 << 32)
    if letter == "I":
        value |= draw.choice((0, 0, 1, 0x8000_0000, 0xFFFF_FFFF)) << 32
        return value - (1 << 64) if value >= 1 << 63 else value
    return value - (1 << 32) if value >= 1 << 31 else value


PATHS = (
    b"file",
    b"folder",
    b"folder/file",
    b"link",
    b"..",
    b".",
    b"file/",
    b"folder/../file",
    b"/file",
    b"\xff",
    b"new",
)


@pytest.mark.parametrize("seed", range(20))
def test_the_host_never_fails_over_files(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    settings = FileSettings(
        mounts=(
            Mount(source=str(tmp_path / "inside"), target="/rw", read_only=False),
            Mount(source=str(tmp_path), target="/ro"),
        ),
        tmp=Tmp(target="/tmp", size=10_000, files=20),
    )
    limits = Limits(file_write_bytes=20_000, file_entries=50, open_files=20)
    guest = Bench(
        everything(),
        stdin=b"x" * 100,
        strict=bool(seed % 2),
        deadline_ns=2_000_000_000,
        new_files=lambda: settings.open(limits, strict=bool(seed % 2)),
    )
    names = sorted(name for name in wasip1.FUNCTIONS if name.startswith(("fd_", "path_")))
    for _ in range(600):
        path = draw.choice(PATHS)
        guest.write(1024, path)
        guest.write(8, b"".join(draw.choice(INTERESTING).to_bytes(4, "little") for _ in range(2)))
        name = draw.choice(names)
        arguments = [number(draw, letter) for letter in wasip1.FUNCTIONS[name].params]
        for at, letter in enumerate(wasip1.FUNCTIONS[name].params):
            # Mostly descriptors that are open and paths that are there, or nothing but BADF would come back.
            if letter == "i" and draw.random() < 0.7:
                arguments[at] = draw.choice((1024, len(path), 8, 1, *range(3, 12)))
            elif letter == "I" and draw.random() < 0.7:
                arguments[at] = draw.choice((0, 1, 100, (1 << 29) - 1))
        try:
            answer = guest.call(name, *arguments)
        except GuestEnded:
            guest.state.ended = None
        else:
            assert answer <= 76, name
        assert guest.state.failure is None
    guest.program.end()
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["inside", "secret"]
    assert sum(file.lstat().st_size for file in tmp_path.rglob("inside/**/*") if file.is_file()) <= 20_000


@pytest.mark.parametrize("seed", range(40))
def test_the_host_never_fails(seed: int) -> None:
    draw = random.Random(seed)
    guest = Bench(
        everything(),
        stdin=draw.randbytes(5000),
        args=(b"a", b"bc"),
        env=(b"A=1",),
        stdout_limit=100_000,
        stderr_limit=100,
        strict=bool(seed % 2),
        deadline_ns=100_000_000,
    )
    names = sorted(wasip1.FUNCTIONS)
    for _ in range(200):
        if draw.random() < 0.3:
            at = draw.randrange(PAGE - 64)
            guest.write(at, b"".join(draw.choice(INTERESTING).to_bytes(4, "little") for _ in range(16)))
        name = draw.choice(names)
        try:
            answer = guest.call(name, *(number(draw, letter) for letter in wasip1.FUNCTIONS[name].params))
        except GuestEnded:
            guest.state.ended = None
        else:
            assert answer <= 76, name
        assert guest.state.failure is None
        assert len(guest.program.stdout) <= 100_000
        assert len(guest.program.stderr.value()) <= 100

"""Arbitrary calls in arbitrary order: whatever a guest passes, it is told, ended, or served; the host never fails."""

import random

import pytest

from hostfuncs import wasip1
from hostfuncs.abi import GuestEnded
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

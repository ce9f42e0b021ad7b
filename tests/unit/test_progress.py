"""The progress of downloads and compilations: a line that is rewritten on a terminal, a plain line a step elsewhere."""

import asyncio
import io

import pytest

from sandboxd.modules.prepare import Phase, Progress
from sandboxd.server.progress import ProgressLine, text_of
from tests.waiting import BOUND_S

MIB = 2**20


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and sets an event at a write that `until` names."""

    def isatty(self) -> bool:
        return True


def step(phase: Phase, **about: object) -> Progress:
    return Progress(binding="orders", phase=phase, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (
            step(Phase.DOWNLOAD, bytes=5 * MIB, total_bytes=20 * MIB, seconds=2.0),
            "orders: download 5.0 of 20.0 MiB, 25 %, 2.5 MiB/s, 6 s left, 2.0 s",
        ),
        (step(Phase.DOWNLOAD, bytes=5 * MIB, seconds=2.0), "orders: download 5.0 MiB, 2.5 MiB/s 2.0 s"),
        (step(Phase.DOWNLOAD, total_bytes=20 * MIB), "orders: download 0.0 of 20.0 MiB, 0 % 0.0 s"),
        (
            step(Phase.DOWNLOAD, bytes=20 * MIB, total_bytes=20 * MIB, seconds=4.0),
            "orders: download 20.0 of 20.0 MiB, 100 %, 5.0 MiB/s 4.0 s",
        ),
        (step(Phase.COMPILE, bytes=26 * MIB, seconds=1.0), "orders: compile 26.0 MiB 1.0 s"),
        (step(Phase.READY, detail="compiled", seconds=9.0), "orders: ready compiled 9.0 s"),
        (step(Phase.FAILED, detail="bad\x1b[2J\nfile", seconds=0.0), None),
    ],
)
def test_what_a_step_says(progress: Progress, expected: str | None) -> None:
    text = text_of(progress)
    assert text.isprintable()
    if expected is not None:
        assert text == expected


def test_a_compilation_ticks_on_a_terminal() -> None:
    """Nobody reports while a compiler works: the line is written anew all the same, until it is done."""
    stream = Terminal()

    async def compile_something() -> int:
        line = ProgressLine(stream)
        line(step(Phase.COMPILE, bytes=MIB))
        async with asyncio.timeout(BOUND_S):
            while stream.getvalue().count("\r") < 4:  # noqa: ASYNC110 - nothing announces a tick
                await asyncio.sleep(0.01)
        line(step(Phase.READY, detail="compiled", seconds=1.5))
        ended = stream.getvalue().count("\r")
        await asyncio.sleep(0)
        return ended

    ended = asyncio.run(compile_something())
    assert stream.getvalue().count("\r") == ended
    assert stream.getvalue().endswith("\r\x1b[2Korders: ready compiled 1.5 s\n")


def test_elsewhere_each_step_is_a_line() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for progress in (
        step(Phase.DOWNLOAD, bytes=1),
        step(Phase.DOWNLOAD, bytes=2),
        step(Phase.COMPILE, bytes=MIB),
        step(Phase.COMPILE, bytes=MIB),
        step(Phase.READY, detail="compiled"),
    ):
        line(progress)
    assert stream.getvalue() == "orders: compile 1.0 MiB 0.0 s\norders: ready compiled 0.0 s\n"

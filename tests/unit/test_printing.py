"""What prints a guest's output in `sandboxd run`."""

import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from sandboxd.commands.printing import OutputEnded, Printer

MORE_THAN_A_PIPE_HOLDS = 1 << 20


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    reading, writing = os.pipe()
    with open(writing, "w") as stream:
        yield reading, stream


def test_a_reader_that_waits_does_not_hold_the_guest_up(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    printer = Printer(stream, stream, 2 * MORE_THAN_A_PIPE_HOLDS)
    printer.echo.stdout(b"a" * MORE_THAN_A_PIPE_HOLDS)
    printer.echo.stderr(b"b")
    printer.echo.stdout(b"c")
    # Nobody has read anything yet.
    assert repr(printer).startswith(f"<Printer {MORE_THAN_A_PIPE_HOLDS + 2} bytes wait")
    got = bytearray()
    while len(got) < MORE_THAN_A_PIPE_HOLDS + 2:
        got += os.read(reading, 65536)
    assert printer.close() is None
    assert bytes(got[-3:]) == b"abc"
    os.close(reading)


@pytest.mark.parametrize("closed", ["before", "while it waits"])
def test_a_reader_that_leaves_ends_the_guest(pipe: tuple[int, TextIO], closed: str) -> None:
    reading, stream = pipe
    printer = Printer(stream, stream, 0)
    if closed == "before":
        os.close(reading)
    printer.echo.stdout(b"x" * MORE_THAN_A_PIPE_HOLDS)
    if closed != "before":
        os.close(reading)
    with pytest.raises(OutputEnded):
        printer.echo.stdout(b"y")
    failed = printer.close()
    assert failed is not None
    assert failed[0] == "stdout"
    assert isinstance(failed[1], BrokenPipeError)


def test_a_closed_stream_gets_nothing() -> None:
    printer = Printer(None, None, 10)
    printer.echo.stdout(b"x")
    assert printer.close() is None


def test_a_stream_that_does_not_block_is_waited_for(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    os.set_blocking(stream.fileno(), False)
    printer = Printer(stream, stream, 2 * MORE_THAN_A_PIPE_HOLDS)
    printer.echo.stdout(b"a" * MORE_THAN_A_PIPE_HOLDS)
    got = 0
    while got < MORE_THAN_A_PIPE_HOLDS:
        got += len(os.read(reading, 65536))
    assert printer.close() is None
    os.close(reading)

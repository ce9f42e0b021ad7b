"""What others write, as a terminal gets it: ECMA-48 for what steers one, Unicode's categories for what is printable."""

import io
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.commands.terminal import TerminalText, safe_for

COLOURS = re.compile(r"\x1b\[[0-9;:]*m")


def told(*pieces: bytes) -> str:
    text = TerminalText()
    return (b"".join(map(text.feed, pieces)) + text.end()).decode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a\tb\nc\r\n", "a\tb\nc\r\n"),
        ("Grüße \U0001f600 日本".encode(), "Grüße \U0001f600 日本"),
        (b"\x1b[31mred\x1b[m", "\x1b[31mred\x1b[m\x1b[0m"),
        (b"\x1b[2J", r"\x1b[2J"),
        (b"\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        (b"all is well\rnot", r"all is well\rnot"),
        (b"a\x08b\x7f", r"a\x08b\x7f"),
        ("\x9b2J\u202egnp\u200b\u2066\ufeff\U000e0041".encode(), r"\x9b2J\u202egnp\u200b\u2066\ufeff\U000e0041"),
        (b"\xff\xc3", r"\xff\xc3"),
        (b"\x1b", r"\x1b"),
        (b"\x1b[" + b"1;" * 40 + b"H", r"\x1b[" + "1;" * 40 + "H"),
    ],
)
def test_what_passes_and_what_is_escaped(data: bytes, expected: str) -> None:
    assert told(data) == expected
    assert told(*(data[at : at + 1] for at in range(len(data)))) == expected


@given(
    pieces=st.lists(
        st.binary(max_size=20) | st.sampled_from([b"\x1b[", b"3", b"m", b"\r", b"\n", b"\xe2\x80", b"\xae"])
    )
)
def test_nothing_steers_a_terminal(pieces: list[bytes]) -> None:
    out = told(*pieces)
    left = COLOURS.sub("", out).replace("\r\n", "").replace("\n", "").replace("\t", "")
    assert [c for c in left if unicodedata.category(c)[0] in "CZ" and c != " "] == []
    assert told(b"".join(pieces)) == out


def test_what_is_no_terminal_gets_bytes_as_they_are() -> None:
    assert safe_for(io.StringIO(), b"\x1b[2J\xff") == b"\x1b[2J\xff"

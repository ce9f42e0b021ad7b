"""Writes the table of attacks in docs/security.md: `python -m tests.escape.table`."""

import re
from pathlib import Path

from tests.escape.test_escape import ATTEMPTS, KILLED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def outcome(pattern: str | None) -> str:
    """Return the meaning of a pattern of expected output, in a word."""
    if pattern is None:
        return "-"
    return "the worker is ended" if pattern == KILLED else "refused"


def table() -> str:
    """The table as Markdown."""
    rows = [
        f"| {what} | {outcome(attempt.wall)} | {outcome(attempt.seccomp)} | {outcome(attempt.landlock)} |"
        for what, attempt in ATTEMPTS.items()
    ]
    return "\n".join(["| attempt | both layers | seccomp alone | Landlock alone |", "|---|---|---|---|", *rows])


def renewed(text: str) -> str:
    """The page with the table between its markers made anew."""
    found, count = re.subn(r"(<!-- attacks -->\n).*?(<!-- end -->)", rf"\g<1>{table()}\n\2", text, flags=re.DOTALL)
    assert count == 1
    return found


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))

"""What was found wrong in a file of the operator's, with its place and what to do about it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """What a problem means for `sandboxd serve`."""

    ERROR = "error"
    """The server must not start."""
    IGNORED = "ignored"
    """An error of a component that says ignoreErrors: the server starts without this component."""
    WARNING = "warning"
    """The server starts; something in the file has no effect or is left out."""
    NOTE = "note"
    """Worth a line, and nothing to repair: `sandboxd check` does not count it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One finding. Never holds a secret's value."""

    severity: Severity
    message: str
    """What is wrong: the thing, the cause."""
    remedy: str = ""
    """What to do about it; one sentence without a full stop, or empty."""
    file: Path | None = None
    """None if it is about a variable or a command-line option, which `message` then names."""
    line: int = 0
    """From 1; 0 if the file as a whole is meant."""
    component: str = ""
    """metadata.name, if it is about one component."""

    @property
    def place(self) -> str:
        """`file:line`, as much of it as is known."""
        if self.file is None:
            return "settings"
        return f"{self.file}:{self.line}" if self.line else str(self.file)

    def __str__(self) -> str:
        """`file:line: severity: message (remedy)`, on one line whatever the file held."""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return one_line(f"{self.place}: {self.severity}: {self.message}{remedy}")


_MAX_LINE = 4_000


def one_line(text: str) -> str:
    """`text` with everything that is not printable escaped, so that a file cannot forge lines of a log or terminal.

    Cut after 4,000 characters.
    """
    if len(text) > _MAX_LINE:
        text = text[:_MAX_LINE] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy naming the known name nearest to `name`, or all of them if none is near and they are few.

    Parameters:
        name: what was written.
        known: what could have been.
    """
    names = sorted(known)
    lower: dict[str, str] = {}
    for candidate in names:
        lower.setdefault(candidate.lower(), candidate)
    near = difflib.get_close_matches(name.lower()[:200], lower, n=1, cutoff=0.6)
    if near:
        return f"did you mean {lower[near[0]]}?"
    if 0 < len(names) <= 12:
        return f"known here: {', '.join(names)}"
    return ""

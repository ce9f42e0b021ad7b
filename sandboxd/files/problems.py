"""Problems in the operator's files, each with its place and its remedy."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sandboxd.errors import one_line


class Severity(StrEnum):
    """The effect of a problem on `sandboxd serve`."""

    ERROR = "error"
    """The server must not start."""
    IGNORED = "ignored"
    """An error in a component with ignoreErrors: the server starts without this component."""
    WARNING = "warning"
    """The server starts, but something in the file has no effect."""
    NOTE = "note"
    """Nothing needs repair; `sandboxd check` does not count it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One problem. It never holds a secret's value."""

    severity: Severity
    message: str
    """The fault and its cause."""
    remedy: str = ""
    """The remedy: one sentence without a full stop, or empty."""
    file: Path | None = None
    """The file; None for a variable or command-line option, which `message` then names."""
    line: int = 0
    """The line, from 1; 0 for the whole file."""
    lost: bool = False
    """Whether a document, or the whole file, is left out because of it."""
    component: str = ""
    """The metadata.name of the component, if the problem is about one."""

    @property
    def place(self) -> str:
        """`file:line`, as far as they are known."""
        if self.file is None:
            return "settings"
        return f"{self.file}:{self.line}" if self.line else str(self.file)

    def __str__(self) -> str:
        """Return `file:line: severity: message (remedy)` on one line."""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return one_line(f"{self.place}: {self.severity}: {self.message}{remedy}")


class Findings:
    """Collects problems, each about a file or a component."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(
        self,
        severity: Severity,
        message: str,
        remedy: str = "",
        *,
        path: Path,
        line: int = 0,
        component: str = "",
        lost: bool = False,
    ) -> None:
        """Record one problem."""
        self.problems.append(
            Problem(
                severity=severity, message=message, remedy=remedy, file=path, line=line, component=component, lost=lost
            )
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a remedy that names the known name most similar to `name`, or all known names if they are few.

    Parameters:
        name: the unknown name.
        known: the known names.

    Returns:
        the remedy; empty if no name is similar and there are more than 12.
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

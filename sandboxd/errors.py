"""The errors that the operator sees, and the exit codes of the command line."""

import codecs
import errno
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from hostfuncs import texts


class ExitCode(IntEnum):
    """Exit statuses of `sandboxd`. Documented in docs/reference.md; supervisors may rely on them."""

    OK = 0
    FAILED = 1
    """A check found problems, or a guest run by `sandboxd run` was ended by the host."""
    USAGE = 2
    CONFIG = 64
    """sandboxd.yaml or a SANDBOXD_ variable is wrong."""
    COMPONENT = 65
    """A component could not be loaded and does not say ignoreErrors."""
    LISTEN = 66
    """The address could not be listened on."""
    WORKERS = 67
    """Workers failed to start again and again, or the machine ran out of descriptors, processes or memory."""
    ZYGOTE_LOST = 68
    """The zygote died."""
    CELLS = 69
    """Cells failed to start again and again."""


SHORT_OF: Final = {
    errno.EMFILE: "raise the limit of open files (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "raise the kernel's limit of open files (fs.file-max)",
    errno.EAGAIN: "raise the limit of processes (ulimit -u, TasksMax=, pids.max)",
    errno.ENOMEM: "give it more memory, or fewer workers",
}
"""The remedies by errno, for errors that mean that the machine has run out of something."""


MAX_LINE: Final = 4_000

# Loaded now: a worker, which also writes lines, cannot import a module.
codecs.lookup("unicode_escape")


def printable(text: str) -> str:
    """Return a text from outside with everything that is not printable escaped: it cannot forge lines of a log or steer
    a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """Return a text as one printable line, cut off after MAX_LINE characters."""
    line = printable(text[: MAX_LINE + 1])
    return line[:MAX_LINE] + "..." if len(line) > MAX_LINE else line


class SandboxdError(Exception):
    """An error whose message is for the operator.

    Parameters:
        message: what is wrong, and where. Cut if it is long: it may quote what a guest chose.
        remedy: what to do about it: one sentence, or empty.
        exit_code: the process's exit status if nothing handles the error; None means the class's.
    """

    exit_code: ExitCode = ExitCode.FAILED
    max_bytes: int = texts.MAX_BYTES

    def __init__(self, message: str, *, remedy: str = "", exit_code: ExitCode | None = None) -> None:
        message = texts.bounded(message, self.max_bytes)
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def for_terminal(self) -> str:
        """Return the text as one line that cannot steer a terminal."""
        return one_line(str(self))


class ConfigError(SandboxdError):
    """sandboxd.yaml, a SANDBOXD_ variable or a command-line option is wrong."""

    exit_code = ExitCode.CONFIG
    max_bytes = 64 * 1024
    """The message has all problems, each on a line of its own."""

    def for_terminal(self) -> str:
        """Return the text with each of its lines as in `one_line`."""
        return "\n".join(map(one_line, str(self).split("\n")))


class ComponentError(SandboxdError):
    """A component, or the module it names, cannot be loaded.

    Parameters:
        message, remedy: as of SandboxdError.
        bindings: those to blame; none if it is not known, or none alone is.
    """

    exit_code = ExitCode.COMPONENT

    def __init__(self, message: str, *, remedy: str = "", bindings: Iterable[str] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.bindings = frozenset(bindings)

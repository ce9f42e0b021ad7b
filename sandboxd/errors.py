"""Errors an operator sees, and the exit codes of the command line."""

import errno
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """Exit statuses of `sandboxd`. Documented in README.md; supervisors may rely on them."""

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
"""What a machine can run out of at any call -> what to do about it."""


class SandboxdError(Exception):
    """A failure whose text is meant for the operator.

    Parameters:
        message: what is wrong, naming the thing and its place.
        remedy: what to do about it; one sentence, or empty.
        exit_code: what the process exits with if nothing handles it.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, remedy: str = "", exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(SandboxdError):
    """sandboxd.yaml, a SANDBOXD_ variable or a command-line option is wrong."""

    exit_code = ExitCode.CONFIG


class ComponentError(SandboxdError):
    """A component, or the module it names, cannot be loaded."""

    exit_code = ExitCode.COMPONENT

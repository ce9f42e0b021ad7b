"""The reasons why a guest cannot be made ready. Where Dapr's binding has a message, the message is Dapr's."""

import re

from sandboxd.errors import ExitCode, SandboxdError, printable

_NUMBERED = re.compile(r"^\d+: +")
"""The number before each cause in wasmtime's messages."""


class ModuleError(SandboxdError):
    """The guest of one binding cannot be made ready. The message is one line and holds no secret."""

    exit_code = ExitCode.COMPONENT


class SourceError(ModuleError):
    """The bytes could not be fetched, or do not have the pinned digest."""


class UnreachableError(SourceError):
    """The origin could not be reached, or it failed (5xx, 429). A stored copy may be used instead."""


class RefusedError(ModuleError):
    """The bytes are not a guest that sandboxd can run."""


class CompileError(ModuleError):
    """The compiler refused the guest, crashed, or exceeded a limit."""


class StoreError(ModuleError):
    """The artifact store cannot be used: it is not private, not writable, full, or damaged."""


def causes_line(text: str, limit: int = 2000) -> str:
    """Return an error with its causes, as wasmtime lists them, as one printable line of at most `limit` characters."""
    parts = [_NUMBERED.sub("", part.strip()).removesuffix(":") for part in text.splitlines()]
    line = ": ".join(part for part in parts if part and part != "Caused by")
    line = printable(line[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"

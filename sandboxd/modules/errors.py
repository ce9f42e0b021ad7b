"""Why a guest could not be made ready. Texts of Dapr's binding are kept where it has one."""

import re

from sandboxd.errors import ExitCode, SandboxdError

_NUMBERED = re.compile(r"^\d+: +")
"""How wasmtime lists causes."""


class ModuleError(SandboxdError):
    """Base of this room: the guest of one binding cannot be had. The message is one line and holds no secret."""

    exit_code = ExitCode.COMPONENT


class SourceError(ModuleError):
    """The bytes could not be fetched, or are not the ones that were pinned."""


class UnreachableError(SourceError):
    """The origin could not be asked, or was in trouble itself (5xx, 429): a kept copy may stand in for its answer."""


class RefusedError(ModuleError):
    """The bytes are no guest that sandboxd can run."""


class CompileError(ModuleError):
    """The compiler refused the guest, crashed, or passed its limits."""


class StoreError(ModuleError):
    """The artifact store cannot be used: not private, not writable, full, or its content is not what it must be."""


def one_line(text: str, limit: int = 2000) -> str:
    """Text from outside as one printable line of at most `limit` characters."""
    parts = [_NUMBERED.sub("", part.strip()).removesuffix(":") for part in text.splitlines()]
    line = ": ".join(part for part in parts if part and part != "Caused by")
    line = "".join(c if c.isprintable() else "�" for c in line)
    return line if len(line) <= limit else line[: limit - 1] + "…"

"""The values that a script passes to a run, and those that a run returns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from hostfuncs.outbound import UsageRecord
from hostfuncs.outcome import Outcome

Text = str | bytes
"""Text for a guest; a `str` is encoded as UTF-8."""
Wasm = bytes | str | os.PathLike[str]
"""A guest: the bytes of a .wasm or .wat file, or a path to one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpRequest:
    """A request for a `wasi:http/incoming-handler` guest."""

    method: str = "GET"
    url: str = "http://localhost/"
    """Scheme, authority and path with query."""
    headers: Sequence[tuple[Text, Text]] = ()
    body: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpResponse:
    """The response of a handler."""

    status: int
    """200 to 599."""
    headers: tuple[tuple[bytes, bytes], ...]
    """In the order in which the guest set them."""
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The ending of one run, and its results."""

    outcome: Outcome
    exit_code: int = 0
    """The guest's exit status if it ended itself, 0 to 2**32 - 1."""
    message: str = ""
    """The reason why the guest ended; empty if it completed."""
    trace: str = ""
    """The stack trace of a trap: empty, or lines that follow the message, with the functions and, where the guest has
    debug information, the files. At most about 2000 characters."""
    limit: str = ""
    """The name of the limit that was exceeded; empty if none was."""
    stdout: bytes = b""
    """The bytes that the guest wrote to stdout, even if the host ended it."""
    stderr: bytes = b""
    """The last bytes that the guest wrote to stderr, at most `Limits.stderr_bytes`."""
    stderr_total: int = 0
    """Number of bytes that the guest wrote to stderr."""
    response: HttpResponse | None = None
    """The response of a handler; None if there is no complete response."""
    outbound: tuple[UsageRecord, ...] = ()
    """The outbound HTTP requests, one record each. A record names the rule of the policy, and for the first denied
    requests also the target."""
    memory_bytes: int = 0
    """Size of a core module's memory at the end; 0 for components."""
    guest_ns: int = 0
    """The time for which the guest ran, in nanoseconds."""

    @property
    def ok(self) -> bool:
        """Whether the guest completed."""
        return self.outcome is Outcome.COMPLETED

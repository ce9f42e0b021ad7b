"""The head of a plain request, known again when a connection brings the same bytes once more.

Callers that keep their connections mostly send one head after another that differs in nothing, unless it names a trace.
What the parser said of the first one holds for those that follow, so they are not parsed. A head is compared in full,
and only with the one before it on its connection.
"""

from typing import Final, NamedTuple

from sandboxd.front.http.direct import Plain
from sandboxd.front.ports import Bindings

_END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_BYTES: Final = 2048
"""Longer heads are not kept: each connection has one."""
_TRIES: Final = 16
"""After so many heads in a row of which none was as the one before it, a connection keeps none any more."""


class KnownHead(NamedTuple):
    """A plain request that came alone, and whole, in one read."""

    head: bytes
    """All of it, with the empty line."""
    size: int
    """Of head and body."""
    plain: Plain
    bindings: Bindings
    """In which the request was found plain."""


class Repeats:
    """What one connection has sent.

    Attributes:
        known: the head of the request before; None if the next one has to be parsed.
    """

    __slots__ = ("_missed", "known")

    def __init__(self) -> None:
        self.known: KnownHead | None = None
        self._missed = 0

    def __repr__(self) -> str:
        return f"<Repeats {'known' if self.known is not None else 'unknown'}, {self._missed} missed>"

    def note(self, received: bytes, body: bytes, plain: Plain, bindings: Bindings) -> None:
        """Take note of a plain request that was parsed.

        Parameters:
            received: all that was read, and the parser was given at once.
            body: of the request.
            plain, bindings: as of `KnownHead`.
        """
        if self._missed >= _TRIES:
            return
        self._missed += 1
        length = len(received) - len(body)
        if length <= _MOST_BYTES and received.find(_END_OF_HEAD) + len(_END_OF_HEAD) == length:
            self.known = KnownHead(received[:length], len(received), plain, bindings)

    def match(self, data: bytes) -> KnownHead | None:
        """Return the head that `data` begins with if it is known, and a whole request if so; else None."""
        known = self.known
        if known is None or len(data) != known.size or not data.startswith(known.head):
            return None
        self._missed = 0
        return known

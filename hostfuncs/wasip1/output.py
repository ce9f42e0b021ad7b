"""The output of a run: the end of stderr, and an echo, which gives what a guest writes to functions while it runs.

The objects of an echo stand where a run's buffers would be, so that a run without one pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

_WHOLE: Final = 1 << 32
"""More than any memory of a guest has: no part of a write is skipped."""


class Tail:
    """The end of a stream of bytes, and how long the stream was.

    Parameters:
        limit: how many bytes are kept.
    """

    __slots__ = ("_buffer", "limit", "skips_above", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skips_above = limit
        """Of a longer write only the end, so long, need be appended; the rest is given as `skipped`."""
        self.total = 0
        self._buffer = bytearray()

    def __repr__(self) -> str:
        return f"<Tail total={self.total} limit={self.limit}>"

    def append(self, data: bytes | memoryview, skipped: int = 0) -> None:
        """Add the bytes that follow. `skipped` bytes before `data` are only counted."""
        self.total += skipped + len(data)
        buffer = self._buffer
        buffer += data
        # Trimmed at twice the limit, so that many small writes do not each move the whole buffer.
        if len(buffer) > 2 * self.limit:
            del buffer[: len(buffer) - self.limit]

    def value(self) -> bytes:
        """Return the bytes that are kept."""
        return bytes(self._buffer[max(0, len(self._buffer) - self.limit) :])


class Echo(NamedTuple):
    """Functions that are given what a guest writes, in its order. What they raise ends the guest."""

    stdout: Callable[[bytes], None]
    stderr: Callable[[bytes], None]

    def buffer(self) -> bytearray:
        """Return the buffer for the stdout of a core guest's next run."""
        return _EchoedBytes(self.stdout)

    def tail(self, limit: int) -> Tail:
        """Return the tail for the stderr of a guest's next run. The echo is not limited: it keeps nothing."""
        return _EchoedTail(limit, self.stderr)


class _EchoedBytes(bytearray):
    __slots__ = ("_echo",)

    def __init__(self, echo: Callable[[bytes], None]) -> None:
        super().__init__()
        self._echo = echo

    def __iadd__(self, data: bytes | memoryview) -> _EchoedBytes:  # type: ignore[override, misc]  # all that fd_write adds
        super().__iadd__(data)
        self._echo(bytes(data))
        return self


class _EchoedTail(Tail):
    __slots__ = ("_echo",)

    def __init__(self, limit: int, echo: Callable[[bytes], None]) -> None:
        super().__init__(limit)
        self.skips_above = _WHOLE
        self._echo = echo

    def append(self, data: bytes | memoryview, skipped: int = 0) -> None:
        """See Tail."""
        super().append(data, skipped)
        self._echo(bytes(data))

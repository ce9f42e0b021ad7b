"""Standard input, output and error of one invocation, whatever stands behind them."""

from typing import Protocol

from hostfuncs.abi.ending import OutputExceeded
from hostfuncs.wasip1.program import Tail


class Source(Protocol):
    """Where bytes for the guest come from. `BytesSource` has them all; others may wait for theirs."""

    def ready(self) -> bool:
        """`read` would give something, or the end."""
        ...

    def read(self, size: int) -> bytes | None:
        """At most `size` bytes; b"" if there are none yet; None at the end."""
        ...


class Sink(Protocol):
    """Where bytes of the guest go."""

    def ready(self) -> bool:
        """`permit` is positive."""
        ...

    def permit(self) -> int:
        """How many bytes `write` would take now."""
        ...

    def write(self, data: bytes) -> None: ...


class BytesSource:
    """Bytes that are all there."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self._at = 0

    def ready(self) -> bool:
        return True

    def read(self, size: int) -> bytes | None:
        at = self._at
        if at >= len(self._data):
            return None
        chunk = self._data[at : at + size]
        self._at = at + len(chunk)
        return chunk


class Collected:
    """Keeps everything, up to a limit.

    Parameters:
        limit: bytes; passing it ends the guest.
    """

    PERMIT = 65_536

    def __init__(self, limit: int) -> None:
        self._chunks: list[bytes] = []
        self._limit = limit
        self.total = 0

    def ready(self) -> bool:
        return True

    def permit(self) -> int:
        return self.PERMIT

    def write(self, data: bytes) -> None:
        """Raises OutputExceeded if it becomes too much; what came before is kept."""
        if self.total + len(data) > self._limit:
            raise OutputExceeded(self._limit)
        self.total += len(data)
        self._chunks.append(data)

    def value(self) -> bytes:
        return b"".join(self._chunks)


class KeptTail:
    """Keeps the end of what is written and counts the rest.

    Parameters:
        limit: bytes kept, at least 0.
    """

    PERMIT = 65_536

    def __init__(self, limit: int) -> None:
        self.tail = Tail(limit)
        self.write = self.tail.append

    def ready(self) -> bool:
        return True

    def permit(self) -> int:
        return self.PERMIT


class Stdio:
    """The three streams.

    Parameters:
        stdin: what the guest reads.
        stdout, stderr: what becomes of what it writes.
    """

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: Source | None = None, stdout: Sink | None = None, stderr: Sink | None = None) -> None:
        self.stdin: Source = stdin or BytesSource()
        self.stdout: Sink = stdout or Collected(0)
        self.stderr: Sink = stderr or KeptTail(0)

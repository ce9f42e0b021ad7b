"""Standard input, output and error of one invocation, and the interfaces of what they are connected to."""

from collections.abc import Callable
from typing import Protocol

from hostfuncs.ending import OutputExceeded
from hostfuncs.wasip1.output import Echo, Tail


class Source(Protocol):
    """A source of bytes for the guest. `BytesSource` holds all of them; other sources may have to wait for theirs."""

    def ready(self) -> bool:
        """Return whether `read` would return bytes or the end."""
        ...

    def read(self, size: int) -> bytes | None:
        """Return at most `size` bytes; b"" if none have arrived; None at the end."""
        ...


class Sink(Protocol):
    """A destination of bytes that the guest writes."""

    def ready(self) -> bool:
        """Return whether `permit` is positive."""
        ...

    def permit(self) -> int:
        """Return how many bytes `write` would take now."""
        ...

    def write(self, data: bytes) -> None:
        """Take bytes, at most as many as `permit` allows."""
        ...


class BytesSource:
    """A source whose bytes are all in memory."""

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
    """A sink that keeps everything, up to a limit.

    Parameters:
        limit: bytes. A guest that writes more is ended.
        echo: is given the bytes too, as they come; None for nobody.
    """

    PERMIT = 65_536

    def __init__(self, limit: int, echo: Callable[[bytes], None] | None = None) -> None:
        self._chunks: list[bytes] = []
        self._limit = limit
        self._echo = echo
        self.total = 0

    def ready(self) -> bool:
        return True

    def permit(self) -> int:
        return self.PERMIT

    def write(self, data: bytes) -> None:
        """Keep the bytes. Raises OutputExceeded if they would exceed the limit; the bytes from before are kept."""
        if self.total + len(data) > self._limit:
            raise OutputExceeded(self._limit)
        self.total += len(data)
        self._chunks.append(data)
        if self._echo is not None:
            self._echo(data)

    def value(self) -> bytes:
        return b"".join(self._chunks)


class KeptTail:
    """A sink that keeps the last bytes and counts the others.

    Parameters:
        limit: bytes kept, at least 0.
        echo: its `stderr` is given all bytes, as they come; None for nobody.
    """

    PERMIT = 65_536

    def __init__(self, limit: int, echo: Echo | None = None) -> None:
        self.tail = Tail(limit) if echo is None else echo.tail(limit)
        self.write = self.tail.append

    def ready(self) -> bool:
        return True

    def permit(self) -> int:
        return self.PERMIT


class Stdio:
    """The three standard streams.

    Parameters:
        stdin: the source that the guest reads.
        stdout, stderr: the sinks that the guest writes to.
    """

    __slots__ = ("stderr", "stdin", "stdout")

    def __init__(self, stdin: Source | None = None, stdout: Sink | None = None, stderr: Sink | None = None) -> None:
        self.stdin: Source = stdin or BytesSource()
        self.stdout: Sink = stdout or Collected(0)
        self.stderr: Sink = stderr or KeptTail(0)

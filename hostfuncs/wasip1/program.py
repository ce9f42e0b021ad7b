"""The program a WASI preview 1 guest runs as: its arguments, environment, standard streams, clocks and randomness."""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from hostfuncs.abi import InvocationState
from hostfuncs.wasip1.sources import Sources, SystemSources

STDIN, STDOUT, STDERR = 0, 1, 2

_ALL_POINTERS = [struct.Struct(f"<{count}I") for count in range(33)]


class Function(NamedTuple):
    """One host function of `wasi_snapshot_preview1`. `call` gets the Program, then one unsigned int per parameter."""

    name: str
    params: str
    call: Callable[..., int | None]
    result: str = "i"


class Strings:
    """Strings as `args_get` and `environ_get` hand them out: one block of zero-terminated bytes, and where each begins.

    Immutable, so that what every invocation has in common is laid out once.

    Raises:
        ValueError: a string contains a NUL byte; the guest would take it for two.
    """

    __slots__ = ("block", "offsets")

    def __init__(self, strings: Iterable[bytes] = ()) -> None:
        self.block = b""
        self.offsets: tuple[int, ...] = ()
        self._append(strings)

    def _append(self, strings: Iterable[bytes]) -> None:
        offsets = list(self.offsets)
        pieces = [self.block]
        at = len(self.block)
        for string in strings:
            if b"\0" in string:
                raise ValueError("contains NUL character")
            offsets.append(at)
            at += len(string) + 1
            pieces.append(string + b"\0")
        self.block = b"".join(pieces)
        self.offsets = tuple(offsets)

    def __repr__(self) -> str:
        return f"<Strings count={len(self.offsets)} bytes={len(self.block)}>"

    def extended(self, strings: Iterable[bytes]) -> "Strings":
        """These, and more after them."""
        longer = Strings.__new__(Strings)
        longer.block = self.block
        longer.offsets = self.offsets
        longer._append(strings)
        return longer

    def pointers(self, base: int) -> bytes:
        """The array of pointers for a guest that keeps the block at `base`. The block must fit below 2**32."""
        offsets = self.offsets
        if len(offsets) < len(_ALL_POINTERS):
            return _ALL_POINTERS[len(offsets)].pack(*[base + offset for offset in offsets])
        return struct.pack(f"<{len(offsets)}I", *[base + offset for offset in offsets])


NO_STRINGS = Strings()


class Tail:
    """The end of a stream of bytes, and how long the stream was.

    Parameters:
        limit: how many bytes are kept.
    """

    __slots__ = ("_buffer", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._buffer = bytearray()

    def __repr__(self) -> str:
        return f"<Tail total={self.total} limit={self.limit}>"

    def append(self, data: bytes | memoryview, skipped: int = 0) -> None:
        """Take in what follows; `skipped` bytes before `data` are only counted."""
        self.total += skipped + len(data)
        buffer = self._buffer
        buffer += data
        # Trimmed at twice the limit, so that many small writes do not each move the whole buffer.
        if len(buffer) > 2 * self.limit:
            del buffer[: len(buffer) - self.limit]

    def value(self) -> bytes:
        """What is kept."""
        return bytes(self._buffer[max(0, len(self._buffer) - self.limit) :])


@dataclass(slots=True)
class Descriptor:
    """An open file descriptor: one of the three standard streams, under whatever number it has now."""

    stream: int
    flags: int
    rights: int


class Program:
    """One guest's view of the world, used again for each of its invocations.

    Parameters:
        state: the invocation the host functions serve.
        stdout_limit: bytes a guest may write to stdout.
        stderr_limit: bytes of stderr that are kept, from its end.
        sources: makes the clocks and the random source of an invocation.
    """

    __slots__ = (
        "args",
        "descriptors",
        "environ",
        "memory",
        "new_sources",
        "sources",
        "state",
        "stderr",
        "stderr_limit",
        "stdin",
        "stdin_at",
        "stdout",
        "stdout_limit",
    )

    def __init__(
        self,
        state: InvocationState,
        *,
        stdout_limit: int,
        stderr_limit: int,
        sources: Callable[[], Sources] = SystemSources,
    ) -> None:
        self.state = state
        self.memory = state.memory
        self.stdout_limit = stdout_limit
        self.stderr_limit = stderr_limit
        self.new_sources = sources
        self.begin(NO_STRINGS, NO_STRINGS, b"")

    def __repr__(self) -> str:
        return f"<Program stdin={self.stdin_at}/{len(self.stdin)} stdout={len(self.stdout)} stderr={self.stderr.total}>"

    def begin(self, args: Strings, environ: Strings, stdin: bytes | memoryview) -> None:
        """Be a new process.

        Parameters:
            args: argv, with argv[0].
            environ: `NAME=VALUE` each.
            stdin: all of it; at its end the guest reads end of file.
        """
        self.args = args
        self.environ = environ
        self.stdin = memoryview(stdin)
        self.stdin_at = 0
        self.stdout = bytearray()
        self.stderr = Tail(self.stderr_limit)
        self.sources = self.new_sources()
        # Made when first needed: most guests never ask about, close or renumber a descriptor.
        self.descriptors: dict[int, Descriptor] | None = None

    def open_descriptors(self) -> dict[int, Descriptor]:
        """The table of descriptors."""
        descriptors = self.descriptors
        if descriptors is None:
            descriptors = self.descriptors = {
                STDIN: Descriptor(STDIN, 0, RIGHTS_STDIN),
                STDOUT: Descriptor(STDOUT, FDFLAGS_APPEND, RIGHTS_OUTPUT),
                STDERR: Descriptor(STDERR, FDFLAGS_APPEND, RIGHTS_OUTPUT),
            }
        return descriptors

    def stream(self, fd: int) -> int:
        """Which standard stream a descriptor is, or -1 if it is not open."""
        if self.descriptors is None:
            return fd if fd <= STDERR else -1
        descriptor = self.descriptors.get(fd)
        return -1 if descriptor is None else descriptor.stream


FDFLAGS_APPEND = 1 << 0
FDFLAGS_NONBLOCK = 1 << 2

_FD_READ = 1 << 1
_FD_FDSTAT_SET_FLAGS = 1 << 3
_FD_WRITE = 1 << 6
_FD_FILESTAT_GET = 1 << 21
_POLL_FD_READWRITE = 1 << 27

RIGHTS_STDIN = _FD_READ | _FD_FDSTAT_SET_FLAGS | _FD_FILESTAT_GET | _POLL_FD_READWRITE
RIGHTS_OUTPUT = _FD_WRITE | _FD_FDSTAT_SET_FLAGS | _FD_FILESTAT_GET | _POLL_FD_READWRITE

"""The process that a WASI preview 1 guest sees: arguments, environment, standard streams, clocks and randomness."""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from hostfuncs.abi import InvocationState
from hostfuncs.wasip1 import rights
from hostfuncs.wasip1.output import Echo, Tail
from hostfuncs.wasip1.sources import Sources, SystemSources

if TYPE_CHECKING:
    from hostfuncs.files import File, Files, Folder, Quota
    from hostfuncs.wasip1.listing import Listing

STDIN, STDOUT, STDERR = 0, 1, 2

_ALL_POINTERS = [struct.Struct(f"<{count}I") for count in range(33)]


class Function(NamedTuple):
    """One host function of `wasi_snapshot_preview1`. `call` gets the Program, then one unsigned int per parameter."""

    name: str
    params: str
    call: Callable[..., int | None]
    result: str = "i"


def _terminated(strings: Iterable[bytes]) -> bytes:
    strings = (*strings, b"")
    block = b"\0".join(strings)
    if block.count(b"\0") != len(strings) - 1:
        raise ValueError("contains NUL character")
    return block


class Strings:
    """Strings as `args_get` and `environ_get` hand them out: one block of zero-terminated bytes, and where each begins.

    Immutable, so that what every invocation has in common is laid out once.

    Raises:
        ValueError: a string contains a NUL byte; the guest would take it for two.
    """

    __slots__ = ("_offsets", "block")

    def __init__(self, strings: Iterable[bytes] = ()) -> None:
        self.block = _terminated(strings)
        self._offsets: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"<Strings count={len(self.offsets)} bytes={len(self.block)}>"

    @property
    def offsets(self) -> tuple[int, ...]:
        """The offset of each string in the block."""
        if self._offsets is None:
            ends = accumulate(len(string) + 1 for string in self.block.split(b"\0")[:-1])
            self._offsets = (0, *ends)[:-1]
        return self._offsets

    def extended(self, strings: Iterable[bytes]) -> "Strings":
        """Return these strings with more after them."""
        longer = Strings.__new__(Strings)
        longer.block = self.block + _terminated(strings)
        longer._offsets = None
        return longer

    def pointers(self, base: int) -> bytes:
        """Return the array of pointers for a guest that keeps the block at `base`. The block must fit below 2**32."""
        offsets = self.offsets
        if len(offsets) < len(_ALL_POINTERS):
            return _ALL_POINTERS[len(offsets)].pack(*[base + offset for offset in offsets])
        return struct.pack(f"<{len(offsets)}I", *[base + offset for offset in offsets])


NO_STRINGS = Strings()


@dataclass(slots=True)
class Descriptor:
    """An open file descriptor: one of the three standard streams, under whatever number it has now."""

    stream: int
    flags: int
    rights: int


FILE = 3
"""The answer of `Program.stream` for a file or folder."""


class OpenFile:
    """An open file descriptor of a file.

    Parameters:
        file: the file.
        flags: fdflags.
        rights: what the guest may do with it.
    """

    __slots__ = ("file", "flags", "position", "rights")
    stream = FILE

    def __init__(self, file: "File", flags: int, rights: int) -> None:
        self.file = file
        self.flags = flags
        self.rights = rights
        self.position = 0


class OpenFolder:
    """An open file descriptor of a folder.

    Parameters:
        folder: the folder.
        flags: fdflags.
        rights: what the guest may do with it.
        inheriting: what it may do at most with what it opens through it.
        path: the path of a folder that the guest has from the beginning; None for others.
    """

    __slots__ = ("flags", "folder", "inheriting", "listing", "path", "rights")
    stream = FILE

    def __init__(self, folder: "Folder", flags: int, rights: int, inheriting: int, path: bytes | None = None) -> None:
        self.folder = folder
        self.flags = flags
        self.rights = rights
        self.inheriting = inheriting
        self.path = path
        self.listing: Listing | None = None
        """The last listing, which is held until the descriptor is closed."""

    def drop_listing(self, quota: "Quota") -> None:
        """Give its room back."""
        if self.listing is not None:
            quota.listing_left += len(self.listing) - 2  # `.` and `..` are not counted
            self.listing = None


class Program:
    """The process that one guest sees. The object is used again for each run.

    Parameters:
        state: the run that the host functions serve.
        stdout_limit: bytes a guest may write to stdout.
        stderr_limit: bytes of stderr that are kept, from its end.
        sources: makes the clocks and the random source of a run.
        new_files: opens the files of a run; None for guests without any.
    """

    __slots__ = (
        "_lowest",
        "args",
        "descriptors",
        "echo",
        "environ",
        "files",
        "memory",
        "new_files",
        "new_sources",
        "recall",
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
        new_files: "Callable[[], Files] | None" = None,
    ) -> None:
        self.new_files = new_files
        self.files: Files | None = None
        self.state = state
        self.memory = state.memory
        self.stdout_limit = stdout_limit
        self.stderr_limit = stderr_limit
        self.new_sources = sources
        self.echo: Echo | None = None
        """Is given the output of the runs that begin from now on."""
        self.recall: Callable[[], None] | None = None
        """Brings the state of the run here, if other code keeps it. None if it is here."""
        self.begin(NO_STRINGS, NO_STRINGS, b"")

    def __repr__(self) -> str:
        return f"<Program stdin={self.stdin_at}/{len(self.stdin)} stdout={len(self.stdout)} stderr={self.stderr.total}>"

    def begin(self, args: Strings, environ: Strings, stdin: bytes | memoryview) -> None:
        """Start a new run.

        Parameters:
            args: argv, with argv[0].
            environ: `NAME=VALUE` each.
            stdin: all of standard input. After it the guest reads the end of the file.
        """
        self.recall = None
        self.args = args
        self.environ = environ
        self.stdin = memoryview(stdin)
        self.stdin_at = 0
        echo = self.echo
        if echo is None:
            self.stdout = bytearray()
            self.stderr = Tail(self.stderr_limit)
        else:
            self.stdout, self.stderr = echo.buffer(), echo.tail(self.stderr_limit)
        self.sources = self.new_sources()
        # Made when first needed: most guests never ask about, close or renumber a descriptor.
        self.descriptors: dict[int, Descriptor | OpenFile | OpenFolder] | None = None

    def open_descriptors(self) -> "dict[int, Descriptor | OpenFile | OpenFolder]":
        """Return the table of descriptors. The folders of the guest follow the streams."""
        descriptors = self.descriptors
        if descriptors is None:
            descriptors = self.descriptors = {
                STDIN: Descriptor(STDIN, 0, RIGHTS_STDIN),
                STDOUT: Descriptor(STDOUT, FDFLAGS_APPEND, RIGHTS_OUTPUT),
                STDERR: Descriptor(STDERR, FDFLAGS_APPEND, RIGHTS_OUTPUT),
            }
            if self.new_files is not None:
                self._open_files(descriptors)
        return descriptors

    def _open_files(self, descriptors: "dict[int, Descriptor | OpenFile | OpenFolder]") -> None:
        assert self.new_files is not None
        self.files = self.new_files()
        self._lowest = STDERR + 1
        for path, folder in self.files.preopened:
            opened = OpenFolder(folder, 0, rights.FOLDER, rights.FOLDER | rights.FILE, path.encode())
            descriptors[self._lowest] = opened
            self._lowest += 1

    def add(self, opened: OpenFile | OpenFolder) -> int:
        """Give a file or folder the lowest free number after the standard streams'."""
        descriptors = self.open_descriptors()
        fd = self._lowest
        while fd in descriptors:
            fd += 1
        descriptors[fd] = opened
        self._lowest = fd + 1
        return fd

    def forget(self, fd: int, opened: "Descriptor | OpenFile | OpenFolder") -> None:
        """Close the file or folder that a descriptor was open on.

        Parameters:
            fd: a number that is free now.
            opened: the file or folder, or a stream, which is not closed.

        Raises:
            OSError: as `Files.release`.
        """
        assert self.files is not None
        if STDERR < fd < self._lowest:
            self._lowest = fd
        if isinstance(opened, OpenFile):
            self.files.release(opened.file)
        elif isinstance(opened, OpenFolder):
            opened.drop_listing(self.files.quota)
            self.files.release(opened.folder)

    def end(self) -> None:
        """Close the files of the run."""
        if self.files is not None:
            self.files.close()
            self.files = None
        self.descriptors = None

    def stream(self, fd: int) -> int:
        """Return which standard stream a descriptor is, FILE for a file or folder, or -1 if it is not open."""
        if self.descriptors is None:
            return fd if fd <= STDERR else -1
        descriptor = self.descriptors.get(fd)
        return -1 if descriptor is None else descriptor.stream


FDFLAGS_APPEND = 1 << 0
FDFLAGS_DSYNC = 1 << 1
FDFLAGS_NONBLOCK = 1 << 2
FDFLAGS_RSYNC = 1 << 3
FDFLAGS_SYNC = 1 << 4

_EVERY_STREAM = rights.FD_FDSTAT_SET_FLAGS | rights.FD_FILESTAT_GET | rights.POLL_FD_READWRITE
RIGHTS_STDIN = rights.FD_READ | _EVERY_STREAM
RIGHTS_OUTPUT = rights.FD_WRITE | _EVERY_STREAM

"""wasi:filesystem without any files: no directory is open, and nothing opens one."""

from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_streams import InputStream, OutputStream
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import NONE, STRING, Borrow, Enum, List, Option, Own, Tag, Tuple


@resource("descriptor")
class Descriptor(Entry):
    """Never made."""


@resource("directory-entry-stream")
class DirectoryEntryStream(Entry):
    """Never made."""


ERROR_CODE = Enum(
    (
        *("access", "would-block", "already", "bad-descriptor", "busy", "deadlock", "quota", "exist", "file-too-large"),
        *("illegal-byte-sequence", "in-progress", "interrupted", "invalid", "io", "is-directory", "loop"),
        *("too-many-links", "message-size", "name-too-long", "no-device", "no-entry", "no-lock"),
        *("insufficient-memory", "insufficient-space", "not-directory", "not-empty", "not-recoverable", "unsupported"),
        *("no-tty", "no-such-device", "overflow", "not-permitted", "pipe", "read-only", "invalid-seek"),
        *("text-file-busy", "cross-device"),
    )
)

PREOPENS = Interface("wasi:filesystem/preopens", {"descriptor": Descriptor})
TYPES = Interface(
    "wasi:filesystem/types",
    {
        "descriptor": Descriptor,
        "directory-entry-stream": DirectoryEntryStream,
        "input-stream": InputStream,
        "output-stream": OutputStream,
        "error": IoError,
    },
    unreachable="there are no descriptors",
)


@PREOPENS.function("get-directories", result=List(Tuple((Own(Descriptor), STRING))))
def get_directories(_host: Host) -> list[tuple[Descriptor, str]]:
    """None."""
    return []


@TYPES.function("filesystem-error-code", Borrow(IoError), result=Option(ERROR_CODE))
def filesystem_error_code(_host: Host, _error: IoError) -> Tag:
    """None: no stream here is a file's."""
    return NONE


INTERFACES = (PREOPENS, TYPES)

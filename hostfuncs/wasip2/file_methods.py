"""wasi:filesystem: what descriptors share, and the methods on files. Errors: see `hostfuncs.wasip2.filesystem`."""

import errno
import functools
from collections.abc import Callable
from typing import Any, Final

from hostfuncs.files import File, Folder, Kind, Stat, base
from hostfuncs.files.base import MAX_OFFSET
from hostfuncs.wasip1.sources import SECOND
from hostfuncs.wasip2.file_streams import (
    Descriptor,
    DirectoryEntryStream,
    FileInput,
    FileOutput,
    FileReader,
    FileWriter,
    code_of,
)
from hostfuncs.wasip2.file_types import (
    ADVICE,
    DESCRIPTOR_FLAGS,
    DESCRIPTOR_TYPE,
    ERROR_CODE,
    NEW_TIMESTAMP,
)
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_streams import READ_MAX, InputStream, OutputStream
from hostfuncs.wasip2.types import (
    BOOL,
    BYTES,
    OK,
    U64,
    Borrow,
    Own,
    Result,
    Tag,
    Tuple,
    Type,
    err,
    ok,
    some,
)

KIND_NAMES: Final = {
    Kind.UNKNOWN: "unknown",
    Kind.BLOCK_DEVICE: "block-device",
    Kind.CHARACTER_DEVICE: "character-device",
    Kind.DIRECTORY: "directory",
    Kind.REGULAR_FILE: "regular-file",
    Kind.SOCKET_DGRAM: "socket",
    Kind.SOCKET_STREAM: "socket",
    Kind.SYMBOLIC_LINK: "symbolic-link",
}
HOW: Final = {
    "read": base.READ,
    "write": base.WRITE,
    "file-integrity-sync": base.SYNC,
    "data-integrity-sync": base.DSYNC,
    "requested-write-sync": base.SYNC,
    "create": base.CREATE,
    "directory": base.DIRECTORY,
    "exclusive": base.EXCLUSIVE,
    "truncate": base.TRUNCATE,
    "symlink-follow": base.FOLLOW,
}
SELF: Final = Borrow(Descriptor)

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
)


def method(name: str, *params: Type, result: Type | None = None) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: a method of `descriptor` that may fail. What it returns is the `ok` of its result."""

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def call(host: Host, descriptor: Descriptor, *arguments: Any) -> Tag:
            try:
                value = function(host, descriptor, *arguments)
            except OSError as error:
                return err(code_of(error))
            return OK if value is None else ok(value)

        TYPES.define(f"[method]descriptor.{name}", call, SELF, *params, result=Result(result, ERROR_CODE))
        return call

    return decorate


def file_of(descriptor: Descriptor) -> File:
    """Return the file of a descriptor. Raises EBADF for a folder."""
    what = descriptor.opened.what
    if isinstance(what, File):
        return what
    raise OSError(errno.EBADF, "not a file")


def folder_of(descriptor: Descriptor) -> Folder:
    """Return the folder of a descriptor. Raises ENOTDIR for a file."""
    what = descriptor.opened.what
    if isinstance(what, Folder):
        return what
    raise OSError(errno.ENOTDIR, "not a folder")


def offset_of(offset: int) -> int:
    """Return an offset, or a time. Raises EINVAL from 2**63 on."""
    if offset > MAX_OFFSET:
        raise OSError(errno.EINVAL, "the offset is too great")
    return offset


def time_of(host: Host, wanted: Tag) -> int | None:
    """Return the time that a `new-timestamp` asks for; None leaves it."""
    if wanted.name == "timestamp":
        seconds, nanoseconds = wanted.payload
        return offset_of(seconds * SECOND + nanoseconds)
    return host.sources.realtime() if wanted.name == "now" else None


def stat_value(found: Stat) -> tuple[Any, ...]:
    """Return the fields of a `descriptor-stat`."""
    times = (found.accessed_ns, found.modified_ns, found.changed_ns)
    return (KIND_NAMES[found.kind], found.links, found.size, *(some(divmod(time, SECOND)) for time in times))


def own_stat(descriptor: Descriptor) -> Stat:
    """Return the attributes of a descriptor's file or folder."""
    what = descriptor.opened.what
    return what.stat() if isinstance(what, File) else what.own_stat()


# files ----------------------------------------------------------------------------------------------------------------


@method("read-via-stream", U64, result=Own(InputStream))
def read_via_stream(_host: Host, descriptor: Descriptor, offset: int) -> FileInput:
    """Return a stream that reads from an offset on.

    Errors: `bad-descriptor`; `invalid` for an offset that is too great.
    """
    return FileInput(descriptor.opened, FileReader(file_of(descriptor), offset_of(offset)))


@method("write-via-stream", U64, result=Own(OutputStream))
def write_via_stream(_host: Host, descriptor: Descriptor, offset: int) -> FileOutput:
    """Return a stream that writes from an offset on.

    Errors: `bad-descriptor`; `invalid` for an offset that is too great.
    """
    return FileOutput(descriptor.opened, FileWriter(file_of(descriptor), offset_of(offset)))


@method("append-via-stream", result=Own(OutputStream))
def append_via_stream(_host: Host, descriptor: Descriptor) -> FileOutput:
    """Return a stream that writes at the end of the file. Errors: `bad-descriptor`."""
    return FileOutput(descriptor.opened, FileWriter(file_of(descriptor), None))


@method("advise", U64, U64, ADVICE)
def advise(_host: Host, descriptor: Descriptor, offset: int, length: int, advice: str) -> None:
    """Announce how the guest will access a range.

    Errors: `bad-descriptor`; `invalid` for an offset that is too great.
    """
    # WASI 0.2 names the advice in another order than preview 1, whose numbers `File.advise` takes.
    order = ("normal", "sequential", "random", "will-need", "dont-need", "no-reuse")
    file_of(descriptor).advise(offset_of(offset), min(length, MAX_OFFSET), order.index(advice))


@method("sync-data")
def sync_data(_host: Host, descriptor: Descriptor) -> None:
    """Wait until the contents are stored. Errors: those of the host, such as `io`."""
    what = descriptor.opened.what
    if isinstance(what, File):
        what.sync(data_only=True)
    else:
        what.sync()


@method("sync")
def sync(_host: Host, descriptor: Descriptor) -> None:
    """Wait until the contents and attributes are stored. Errors: those of the host, such as `io`."""
    what = descriptor.opened.what
    if isinstance(what, File):
        what.sync(data_only=False)
    else:
        what.sync()


@method("get-flags", result=DESCRIPTOR_FLAGS)
def get_flags(_host: Host, descriptor: Descriptor) -> frozenset[str]:
    """Return the flags with which the descriptor was opened. Errors: none is ever returned."""
    what = descriptor.opened.what
    if isinstance(what, Folder):
        return frozenset(("read",) if what.read_only else ("read", "mutate-directory"))
    names = ("read", "write", "file-integrity-sync", "data-integrity-sync")
    return frozenset(name for name in names if what.how & HOW[name])


@method("get-type", result=DESCRIPTOR_TYPE)
def get_type(_host: Host, descriptor: Descriptor) -> str:
    """Return whether the descriptor is a file or a folder. Errors: none is ever returned."""
    return "regular-file" if isinstance(descriptor.opened.what, File) else "directory"


@method("set-size", U64)
def set_size(_host: Host, descriptor: Descriptor, size: int) -> None:
    """Cut or grow a file. Errors: `bad-descriptor`; those of ftruncate(2); those of a change."""
    file_of(descriptor).truncate(offset_of(size))


@method("set-times", NEW_TIMESTAMP, NEW_TIMESTAMP)
def set_times(host: Host, descriptor: Descriptor, accessed: Tag, modified: Tag) -> None:
    """Set the times of access and modification. Errors: `invalid` for a time that is too great; those of a change."""
    what = descriptor.opened.what
    times = time_of(host, accessed), time_of(host, modified)
    if isinstance(what, File):
        what.set_times(*times)
    else:
        what.set_times(b".", *times, follow=True)


@method("read", U64, U64, result=Tuple((BYTES, BOOL)))
def read(_host: Host, descriptor: Descriptor, length: int, offset: int) -> tuple[bytes, bool]:
    """Read at most 64 KiB at an offset, and return the bytes and whether that was the end.

    Errors: `bad-descriptor` if it is not open for reading; `invalid` for an offset that is too great.
    """
    buffer = bytearray(min(length, READ_MAX))
    count = file_of(descriptor).read([memoryview(buffer)], offset_of(offset))
    return bytes(buffer[:count]), bool(length) and not count


@method("write", BYTES, U64, result=U64)
def write(_host: Host, descriptor: Descriptor, data: bytes, offset: int) -> int:
    """Write at an offset, and return the number of bytes written.

    Errors: `bad-descriptor` if it is not open for writing; `invalid` for an offset that is too great; those of a
    change.
    """
    return file_of(descriptor).write([memoryview(data)], offset_of(offset))

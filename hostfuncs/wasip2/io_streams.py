"""wasi:io/streams: what every stream has in common, and the functions guests call on them.

Concrete streams say what they can do without waiting; waiting is done here, on the outbound engine's event loop.
"""

from typing import Protocol

from hostfuncs.abi.ending import HostTrap
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_poll import Pollable
from hostfuncs.wasip2.stdio import Sink, Source
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import BYTES, OK, U64, Borrow, Own, Result, Tag, Variant, err, ok

READ_MAX = 65_536
"""Most a read gives at once. A byte costs 32 in wasmtime's C API while it crosses, so pieces are kept small."""
BLOCKING_WRITE_MAX = 4_096
"""WASI's limit for `blocking-write-and-flush` and its zeroes; more is a trap."""


class Closed(Exception):  # noqa: N818 - a state, and WASI's word for it
    """The stream has ended."""


class Failed(Exception):  # noqa: N818 - `last-operation-failed`
    """The stream broke. Told to the guest once; after that the stream is closed."""

    def __init__(self, error: IoError) -> None:
        super().__init__(error.text)
        self.error = error


class Reader(Protocol):
    """The host's side of an input-stream."""

    def ready(self) -> bool:
        """`read` would give bytes, the end or a failure."""
        ...

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" if none have come. Raises Closed or Failed."""
        ...


class Writer(Protocol):
    """The host's side of an output-stream."""

    def ready(self) -> bool:
        """`permit` would be positive or raise."""
        ...

    def permit(self) -> int:
        """How many bytes `write` takes now. Raises Closed or Failed."""
        ...

    def write(self, data: bytes) -> None:
        """Raises Closed or Failed."""
        ...

    def flushed(self) -> bool:
        """Whether nothing written waits to go out."""
        ...


class SourceReader:
    """Reads a `Source`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.ready = source.ready

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        if data is None:
            raise Closed
        return data


class SinkWriter:
    """Writes to a `Sink`."""

    def __init__(self, sink: Sink) -> None:
        self.ready = sink.ready
        self.permit = sink.permit
        self.write = sink.write

    def flushed(self) -> bool:
        return True


@resource("input-stream")
class InputStream(Entry):
    """Parameters: what is read, and the resource it belongs to."""

    def __init__(self, reader: Reader, parent: Entry | None = None) -> None:
        self.reader = reader
        self.parent = parent


@resource("output-stream")
class OutputStream(Entry):
    """Parameters: what is written to, and the resource it belongs to."""

    def __init__(self, writer: Writer, parent: Entry | None = None) -> None:
        self.writer = writer
        self.parent = parent


STREAM_ERROR = Variant((("last-operation-failed", Own(IoError)), ("closed", None)))
DONE = Result(None, STREAM_ERROR)
COUNT = Result(U64, STREAM_ERROR)
_CLOSED = err(Tag("closed"))

INTERFACE = Interface(
    "wasi:io/streams",
    {"input-stream": InputStream, "output-stream": OutputStream, "error": IoError, "pollable": Pollable},
)


def _failed(failure: Failed) -> Tag:
    return err(Tag("last-operation-failed", failure.error))


def _read(reader: Reader, size: int) -> bytes:
    return reader.read(min(size, READ_MAX)) if size else b""


def _read_some(host: Host, reader: Reader, size: int) -> bytes:
    """Bytes, waiting for the first one."""
    while True:
        data = _read(reader, size)
        if data or not size:
            return data
        host.wait(reader.ready)


# input-stream ---------------------------------------------------------------------------------------------------------


@INTERFACE.function("[method]input-stream.read", Borrow(InputStream), U64, result=Result(BYTES, STREAM_ERROR))
def read(host: Host, stream: InputStream, size: int) -> Tag:
    """What has come, at most `size` and 64 KiB; empty if nothing has. `closed` at the end."""
    try:
        if not stream.reader.ready():
            host.turn()
        return ok(_read(stream.reader, size))
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)


@INTERFACE.function("[method]input-stream.blocking-read", Borrow(InputStream), U64, result=Result(BYTES, STREAM_ERROR))
def blocking_read(host: Host, stream: InputStream, size: int) -> Tag:
    """As `read`, waiting for at least one byte or the end."""
    try:
        return ok(_read_some(host, stream.reader, size))
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)


@INTERFACE.function("[method]input-stream.skip", Borrow(InputStream), U64, result=COUNT)
def skip(host: Host, stream: InputStream, size: int) -> Tag:
    """As `read`, but only how many bytes there were."""
    result = read(host, stream, size)
    return ok(len(result.payload)) if result.name == "ok" else result


@INTERFACE.function("[method]input-stream.blocking-skip", Borrow(InputStream), U64, result=COUNT)
def blocking_skip(host: Host, stream: InputStream, size: int) -> Tag:
    """As `blocking-read`, but only how many bytes there were."""
    result = blocking_read(host, stream, size)
    return ok(len(result.payload)) if result.name == "ok" else result


@INTERFACE.function("[method]input-stream.subscribe", Borrow(InputStream), result=Own(Pollable))
def subscribe_input(_host: Host, stream: InputStream) -> Pollable:
    """Ready when bytes, the end or a failure can be read."""
    return Pollable(stream.reader.ready, parent=stream)


# output-stream --------------------------------------------------------------------------------------------------------


@INTERFACE.function("[method]output-stream.check-write", Borrow(OutputStream), result=COUNT)
def check_write(host: Host, stream: OutputStream) -> Tag:
    """How many bytes the next `write` may have; 0 means wait for the pollable."""
    try:
        if not stream.writer.ready():
            host.turn()
        return ok(stream.writer.permit())
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)


def _write(writer: Writer, data: bytes) -> None:
    if len(data) > writer.permit():
        raise HostTrap("wasi:io/streams write: more than check-write permitted")
    writer.write(data)


@INTERFACE.function("[method]output-stream.write", Borrow(OutputStream), BYTES, result=DONE)
def write(_host: Host, stream: OutputStream, data: bytes) -> Tag:
    """Write without waiting. Traps if it is more than `check-write` permits."""
    try:
        _write(stream.writer, data)
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)
    return OK


def _write_all(host: Host, writer: Writer, data: bytes) -> None:
    at = 0
    while at < len(data):
        host.wait(writer.ready)
        chunk = data[at : at + writer.permit()]
        writer.write(chunk)
        at += len(chunk)
    host.wait(writer.flushed)
    host.wait(writer.ready)
    writer.permit()


def _blocking_write(host: Host, stream: OutputStream, data: bytes) -> Tag:
    try:
        _write_all(host, stream.writer, data)
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)
    return OK


@INTERFACE.function("[method]output-stream.blocking-write-and-flush", Borrow(OutputStream), BYTES, result=DONE)
def blocking_write_and_flush(host: Host, stream: OutputStream, data: bytes) -> Tag:
    """Write at most 4096 bytes (more is a trap) and wait until they are out."""
    if len(data) > BLOCKING_WRITE_MAX:
        raise HostTrap(f"wasi:io/streams blocking-write-and-flush: {len(data)} bytes, at most {BLOCKING_WRITE_MAX}")
    return _blocking_write(host, stream, data)


@INTERFACE.function("[method]output-stream.flush", Borrow(OutputStream), result=DONE)
def flush(_host: Host, stream: OutputStream) -> Tag:
    """Everything here goes out by itself, so that this only reports a stream that has ended."""
    try:
        stream.writer.permit()
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)
    return OK


@INTERFACE.function("[method]output-stream.blocking-flush", Borrow(OutputStream), result=DONE)
def blocking_flush(host: Host, stream: OutputStream) -> Tag:
    """Wait until everything written is out."""
    return _blocking_write(host, stream, b"")


@INTERFACE.function("[method]output-stream.subscribe", Borrow(OutputStream), result=Own(Pollable))
def subscribe_output(_host: Host, stream: OutputStream) -> Pollable:
    """Ready when `check-write` would give more than 0 or an error."""
    return Pollable(stream.writer.ready, parent=stream)


def _zeroes(writer: Writer, size: int) -> bytes:
    # Asked first: the size is the guest's, and what is not permitted need not be made.
    if size > writer.permit():
        raise HostTrap("wasi:io/streams write-zeroes: more than check-write permitted")
    return bytes(size)


@INTERFACE.function("[method]output-stream.write-zeroes", Borrow(OutputStream), U64, result=DONE)
def write_zeroes(_host: Host, stream: OutputStream, size: int) -> Tag:
    """As `write` of that many zeroes."""
    try:
        stream.writer.write(_zeroes(stream.writer, size))
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)
    return OK


@INTERFACE.function("[method]output-stream.blocking-write-zeroes-and-flush", Borrow(OutputStream), U64, result=DONE)
def blocking_write_zeroes_and_flush(host: Host, stream: OutputStream, size: int) -> Tag:
    """As `blocking-write-and-flush` of that many zeroes."""
    if size > BLOCKING_WRITE_MAX:
        raise HostTrap(f"wasi:io/streams blocking-write-zeroes-and-flush: {size} bytes, at most {BLOCKING_WRITE_MAX}")
    return _blocking_write(host, stream, bytes(size))


_SPLICE = (Borrow(OutputStream), Borrow(InputStream), U64)


@INTERFACE.function("[method]output-stream.splice", *_SPLICE, result=COUNT)
def splice(host: Host, stream: OutputStream, source: InputStream, size: int) -> Tag:
    """Move what can be moved without waiting, at most `size` bytes; how many it was."""
    try:
        if not (stream.writer.ready() and source.reader.ready()):
            host.turn()
        permit = stream.writer.permit()
        if not permit:
            return ok(0)
        data = _read(source.reader, min(size, permit))
        if data:
            stream.writer.write(data)
        return ok(len(data))
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)


@INTERFACE.function("[method]output-stream.blocking-splice", *_SPLICE, result=COUNT)
def blocking_splice(host: Host, stream: OutputStream, source: InputStream, size: int) -> Tag:
    """As `splice`, waiting until at least one byte can be moved."""
    if size:
        host.wait(stream.writer.ready)
        host.wait(source.reader.ready)
    return splice(host, stream, source, size)

"""wasi:io/streams: what all streams have in common, and the functions that guests call on them.

A concrete stream (`Reader`, `Writer`) never waits; it says what it can do now. The functions here do the waiting, on
the event loop of the outbound client.

Errors of all functions that read or write (WIT `stream-error`): `closed` once the stream has ended;
`last-operation-failed`, with an `error` resource, if the stream broke. A stream that broke reports it once and is
`closed` from then on.
"""

from typing import Protocol

from hostfuncs.ending import HostTrap
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_poll import Pollable
from hostfuncs.wasip2.stdio import Sink, Source
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import BYTES, OK, U64, Borrow, Own, Result, Tag, Variant, err, ok

READ_MAX = 65_536
"""Most bytes that one read returns. A byte takes 32 in wasmtime's C API while it crosses, so pieces are kept small."""
BLOCKING_WRITE_MAX = 4_096
"""WASI's limit for `blocking-write-and-flush` and for its variant that writes zeroes."""


class Closed(Exception):  # noqa: N818 - a state, and WASI's word for it
    """The stream has ended."""


class Failed(Exception):  # noqa: N818 - `last-operation-failed`
    """The stream broke (`last-operation-failed`). The guest is told once; after that the stream is closed."""

    def __init__(self, error: IoError) -> None:
        super().__init__(error.text)
        self.error = error


class Reader(Protocol):
    """The host's side of an input-stream."""

    def ready(self) -> bool:
        """Return whether `read` would return bytes or raise."""
        ...

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, or b"" if none have arrived. Raises Closed or Failed."""
        ...


class Writer(Protocol):
    """The host's side of an output-stream."""

    def ready(self) -> bool:
        """Return whether `permit` would be positive or raise."""
        ...

    def permit(self) -> int:
        """Return how many bytes `write` takes now. Raises Closed or Failed."""
        ...

    def write(self, data: bytes) -> None:
        """Take bytes, at most as many as `permit` allows. Raises Closed or Failed."""
        ...

    def flushed(self) -> bool:
        """Return whether everything that was written has gone out."""
        ...

    def stuck(self) -> bool:
        """Return whether only the guest itself could make room. A guest that waits for room then waits for ever."""
        ...

    def give_up(self) -> None:
        """Break the stream, because the guest waits while it is `stuck`."""
        ...


class NeverStuck:
    """The part of a Writer for streams whose room does not depend on the guest."""

    def stuck(self) -> bool:
        return False

    def give_up(self) -> None:
        raise AssertionError("only a stuck stream is given up")


class SourceReader:
    """Reads from a `Source`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.ready = source.ready

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        if data is None:
            raise Closed
        return data


class SinkWriter(NeverStuck):
    """Writes to a `Sink`."""

    def __init__(self, sink: Sink) -> None:
        self.ready = sink.ready
        self.permit = sink.permit
        self.write = sink.write

    def flushed(self) -> bool:
        return True


@resource("input-stream")
class InputStream(Entry):
    """Parameters: the reader, and the resource that the stream belongs to."""

    def __init__(self, reader: Reader, parent: Entry | None = None) -> None:
        self.reader = reader
        self.parent = parent


@resource("output-stream")
class OutputStream(Entry):
    """Parameters: the writer, and the resource that the stream belongs to."""

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
    """Return at least one byte, waiting for it, unless `size` is 0."""
    while True:
        data = _read(reader, size)
        if data or not size:
            return data
        host.wait(reader.ready)


# input-stream ---------------------------------------------------------------------------------------------------------


@INTERFACE.function("[method]input-stream.read", Borrow(InputStream), U64, result=Result(BYTES, STREAM_ERROR))
def read(host: Host, stream: InputStream, size: int) -> Tag:
    """Return the bytes that have arrived: at most `size`, and at most 64 KiB. The list is empty if none have.

    Errors: `closed` at the end; `last-operation-failed`.
    """
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
    """Wait for at least one byte, then do as `read`. Errors: as `read`."""
    try:
        return ok(_read_some(host, stream.reader, size))
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)


@INTERFACE.function("[method]input-stream.skip", Borrow(InputStream), U64, result=COUNT)
def skip(host: Host, stream: InputStream, size: int) -> Tag:
    """Discard the bytes that `read` would return, and return their number. Errors: as `read`."""
    result = read(host, stream, size)
    return ok(len(result.payload)) if result.name == "ok" else result


@INTERFACE.function("[method]input-stream.blocking-skip", Borrow(InputStream), U64, result=COUNT)
def blocking_skip(host: Host, stream: InputStream, size: int) -> Tag:
    """Discard the bytes that `blocking-read` would return, and return their number. Errors: as `read`."""
    result = blocking_read(host, stream, size)
    return ok(len(result.payload)) if result.name == "ok" else result


@INTERFACE.function("[method]input-stream.subscribe", Borrow(InputStream), result=Own(Pollable))
def subscribe_input(_host: Host, stream: InputStream) -> Pollable:
    """Return a pollable that is ready once `read` would return bytes or an error."""
    return Pollable(stream.reader.ready, parent=stream)


# output-stream --------------------------------------------------------------------------------------------------------


@INTERFACE.function("[method]output-stream.check-write", Borrow(OutputStream), result=COUNT)
def check_write(host: Host, stream: OutputStream) -> Tag:
    """Return how many bytes the next `write` may have. 0 means that the guest must wait for the pollable.

    Errors: `closed`; `last-operation-failed`.
    """
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
    """Write bytes without waiting.

    Errors: `closed`; `last-operation-failed`. Traps: more bytes than `check-write` permits.
    """
    try:
        _write(stream.writer, data)
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)
    return OK


def _await_room(host: Host, writer: Writer) -> None:
    if writer.stuck():
        writer.give_up()
    host.wait(writer.ready)


def _write_all(host: Host, writer: Writer, data: bytes) -> None:
    at = 0
    while at < len(data):
        _await_room(host, writer)
        chunk = data[at : at + writer.permit()]
        writer.write(chunk)
        at += len(chunk)
    host.wait(writer.flushed)
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
    """Write at most 4,096 bytes and wait until they are sent, if they have a destination yet.

    The body of a request that was not handed to `outgoing-handler.handle` is held in memory, up to a bound. A guest
    that writes beyond the bound gets `last-operation-failed`, and the error's text names the remedy.

    Errors: `closed`; `last-operation-failed`. Traps: more than 4,096 bytes.
    """
    if len(data) > BLOCKING_WRITE_MAX:
        raise HostTrap(f"wasi:io/streams blocking-write-and-flush: {len(data)} bytes, at most {BLOCKING_WRITE_MAX}")
    return _blocking_write(host, stream, data)


@INTERFACE.function("[method]output-stream.flush", Borrow(OutputStream), result=DONE)
def flush(_host: Host, stream: OutputStream) -> Tag:
    """Do nothing but report a stream that has ended: all bytes are sent without being flushed.

    Errors: `closed`; `last-operation-failed`.
    """
    try:
        stream.writer.permit()
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)
    return OK


@INTERFACE.function("[method]output-stream.blocking-flush", Borrow(OutputStream), result=DONE)
def blocking_flush(host: Host, stream: OutputStream) -> Tag:
    """Wait until everything written is sent. Returns at once for a body that belongs to no request yet.

    Errors: `closed`; `last-operation-failed`.
    """
    return _blocking_write(host, stream, b"")


@INTERFACE.function("[method]output-stream.subscribe", Borrow(OutputStream), result=Own(Pollable))
def subscribe_output(_host: Host, stream: OutputStream) -> Pollable:
    """Return a pollable that is ready once `check-write` would return more than 0 or an error."""
    return Pollable(stream.writer.ready, parent=stream, writer=stream.writer)


def _zeroes(writer: Writer, size: int) -> bytes:
    # The guest chooses the size: zeroes that may not be written are never made.
    if size > writer.permit():
        raise HostTrap("wasi:io/streams write-zeroes: more than check-write permitted")
    return bytes(size)


@INTERFACE.function("[method]output-stream.write-zeroes", Borrow(OutputStream), U64, result=DONE)
def write_zeroes(_host: Host, stream: OutputStream, size: int) -> Tag:
    """Write `size` zero bytes as `write` does.

    Errors: `closed`; `last-operation-failed`. Traps: more bytes than `check-write` permits.
    """
    try:
        stream.writer.write(_zeroes(stream.writer, size))
    except Closed:
        return _CLOSED
    except Failed as failure:
        return _failed(failure)
    return OK


@INTERFACE.function("[method]output-stream.blocking-write-zeroes-and-flush", Borrow(OutputStream), U64, result=DONE)
def blocking_write_zeroes_and_flush(host: Host, stream: OutputStream, size: int) -> Tag:
    """Write `size` zero bytes as `blocking-write-and-flush` does.

    Errors: `closed`; `last-operation-failed`. Traps: more than 4,096 bytes.
    """
    if size > BLOCKING_WRITE_MAX:
        raise HostTrap(f"wasi:io/streams blocking-write-zeroes-and-flush: {size} bytes, at most {BLOCKING_WRITE_MAX}")
    return _blocking_write(host, stream, bytes(size))


_SPLICE = (Borrow(OutputStream), Borrow(InputStream), U64)


@INTERFACE.function("[method]output-stream.splice", *_SPLICE, result=COUNT)
def splice(host: Host, stream: OutputStream, source: InputStream, size: int) -> Tag:
    """Move bytes from an input stream to an output stream without waiting, at most `size`, and return their number.

    Errors: those of either stream, `closed` or `last-operation-failed`.
    """
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
    """Wait until at least one byte can be moved, then do as `splice`. Errors: as `splice`."""
    if size:
        _await_room(host, stream.writer)
        host.wait(source.reader.ready)
    return splice(host, stream, source, size)

"""wasi:http/types bodies: incoming-body, future-trailers, outgoing-body, for both directions of HTTP."""

from typing import Protocol

from hostfuncs.outbound import Exchange, OutboundError, RequestBody
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.http_fields import Fields, received
from hostfuncs.wasip2.http_types import ERROR_CODE, TYPES, error_code
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_poll import Pollable
from hostfuncs.wasip2.io_streams import Closed, Failed, InputStream, OutputStream, Reader, Writer
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import ERR, NONE, OK, Borrow, Option, Own, Result, Tag, err, ok, option, some

BODY_SIZE_REQUEST = "HTTP-request-body-size"
BODY_CAPACITY = 1 << 20
"""What one request's body holds until it is sent: as much as wasmtime's, for guests that write before they send."""
BODIES_MAX = 32 << 20
"""What all of them hold together."""
WRITE_MAX = 65_536
_DRAIN = 65_536


class BodySource(Reader, Protocol):
    """A body that arrives."""

    def trailers(self) -> Fields | None:
        """What followed the body; only once `complete`. Raises OutboundError if the body broke."""
        ...

    def complete(self) -> bool:
        """Read on without keeping anything; whether the end, or a failure, has been reached."""
        ...

    def close(self) -> None:
        """Nobody will read on."""
        ...


class ExchangeSource:
    """The body of an outbound request's response."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._body = exchange.body
        self._told = False
        self.ready = self._body.ready

    def read(self, size: int) -> bytes:
        if self._told:
            raise Closed
        try:
            data = self._body.read(size)
        except OutboundError as failure:
            self._told = True
            raise Failed(IoError(str(failure), failure.code)) from None
        if not data and self._body.ended:
            raise Closed
        return data

    def complete(self) -> bool:
        try:
            while self._body.read(_DRAIN):
                pass
        except OutboundError:
            return True
        return self._body.ended

    def trailers(self) -> Fields | None:
        self._body.read(1)
        return received(self._body.trailers) if self._body.trailers else None

    def close(self) -> None:
        self._exchange.close()


@resource("incoming-body")
class IncomingBody(Entry):
    """A body to be read once."""

    def __init__(self, source: BodySource) -> None:
        self.source = source
        self.streamed = False

    def drop(self, host: Host) -> None:
        self.source.close()


@resource("future-trailers")
class FutureTrailers(Entry):
    """What comes after a body."""

    def __init__(self, source: BodySource) -> None:
        self.source = source
        self.taken = False

    def drop(self, host: Host) -> None:
        self.source.close()


class BodySink(Protocol):
    """A body that leaves."""

    def writer(self) -> Writer: ...

    def finish(self, trailers: Fields | None) -> None:
        """Say that it is complete. Raises OutboundError."""
        ...

    def abort(self) -> None:
        """Give it up: the peer must not take it for complete."""
        ...


class _RequestWriter:
    """The stream of an outbound request's body."""

    def __init__(self, body: RequestBody, host: Host) -> None:
        self._body = body
        self._host = host
        self._told = False
        self.flushed = body.flushed

    def ready(self) -> bool:
        return self._body.closed or (self._body.ready() and (self._body.permit() == 0 or self._room() > 0))

    def _room(self) -> int:
        """What all unsent bodies of the invocation together leave."""
        return BODIES_MAX - sum(body.held for body in self._host.request_bodies)

    def permit(self) -> int:
        # Writing nothing asks whether the body is still wanted.
        self.write(b"")
        return max(0, min(self._body.permit(), WRITE_MAX, self._room()))

    def write(self, data: bytes) -> None:
        if self._told:
            raise Closed
        try:
            self._body.write(data)
        except OutboundError as failure:
            self._told = True
            if self._body.closed:
                raise Closed from None
            raise Failed(IoError(str(failure), failure.code)) from None


class RequestSink:
    """The body of an outbound request."""

    def __init__(self, body: RequestBody, host: Host) -> None:
        self.body = body
        self._host = host
        bodies = host.request_bodies
        bodies[:] = [other for other in bodies if not other.closed]
        bodies.append(body)

    def writer(self) -> Writer:
        return _RequestWriter(self.body, self._host)

    def finish(self, trailers: Fields | None) -> None:
        try:
            # Writing nothing asks whether too much was written before.
            self.body.write(b"")
        except OutboundError as failure:
            # Any other end of the exchange is told by the future, as in wasmtime.
            if failure.code.name == BODY_SIZE_REQUEST:
                raise
        self.body.finish(trailers.wire() if trailers is not None else ())

    def abort(self) -> None:
        self.body.abort()


@resource("outgoing-body")
class OutgoingBody(Entry):
    """A body to be written once."""

    def __init__(self, sink: BodySink) -> None:
        self.sink = sink
        self.streamed = False

    def drop(self, host: Host) -> None:
        self.sink.abort()


TYPES.resources.update(
    {"incoming-body": IncomingBody, "future-trailers": FutureTrailers, "outgoing-body": OutgoingBody}
)


# incoming-body and future-trailers ------------------------------------------------------------------------------------


@TYPES.function("[method]incoming-body.stream", Borrow(IncomingBody), result=Result(Own(InputStream)))
def incoming_stream(_host: Host, body: IncomingBody) -> Tag:
    """The bytes; once, then an error. The stream must be dropped before the body is."""
    if body.streamed:
        return ERR
    body.streamed = True
    return ok(InputStream(body.source, parent=body))


@TYPES.function("[static]incoming-body.finish", Own(IncomingBody), result=Own(FutureTrailers))
def incoming_finish(_host: Host, body: IncomingBody) -> FutureTrailers:
    """Let go of the body, read or not, and get at what follows it."""
    return FutureTrailers(body.source)


@TYPES.function("[method]future-trailers.subscribe", Borrow(FutureTrailers), result=Own(Pollable))
def trailers_subscribe(_host: Host, trailers: FutureTrailers) -> Pollable:
    """Ready when `get` gives something. What is left of the body is read and forgotten meanwhile."""
    return Pollable(trailers.source.complete, parent=trailers)


@TYPES.function(
    "[method]future-trailers.get",
    Borrow(FutureTrailers),
    result=Option(Result(Result(Option(Own(Fields)), ERROR_CODE))),
)
def trailers_get(host: Host, trailers: FutureTrailers) -> Tag:
    """None until they are there, then once the trailers or why there are none, then an error."""
    if trailers.taken:
        return some(ERR)
    if not trailers.source.complete():
        host.turn()
        if not trailers.source.complete():
            return NONE
    trailers.taken = True
    try:
        return some(ok(ok(option(trailers.source.trailers()))))
    except OutboundError as failure:
        return some(ok(err(error_code(failure.code))))


# outgoing-body --------------------------------------------------------------------------------------------------------


@TYPES.function("[method]outgoing-body.write", Borrow(OutgoingBody), result=Result(Own(OutputStream)))
def outgoing_write(_host: Host, body: OutgoingBody) -> Tag:
    """Where to write the bytes; once, then an error. The stream must be dropped before the body is finished."""
    if body.streamed:
        return ERR
    body.streamed = True
    return ok(OutputStream(body.sink.writer(), parent=body))


@TYPES.function("[static]outgoing-body.finish", Own(OutgoingBody), Option(Own(Fields)), result=Result(None, ERROR_CODE))
def outgoing_finish(_host: Host, body: OutgoingBody, trailers: Tag) -> Tag:
    """Say that the body is complete; an error if it has not the announced length. A body dropped instead is aborted."""
    try:
        body.sink.finish(trailers.payload)
    except OutboundError as failure:
        return err(error_code(failure.code))
    return OK

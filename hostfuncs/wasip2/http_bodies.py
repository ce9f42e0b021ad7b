"""wasi:http/types bodies, for both directions of HTTP: incoming-body, future-trailers, outgoing-body."""

from typing import Protocol

from hostfuncs.outbound import ErrorCode, Exchange, OutboundError, RequestBody
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
"""Most bytes that the host holds of one request's body, for guests that write it before they send the request."""
UNREAD = (
    "the request was not sent yet, and {} bytes of its body are held; call outgoing-handler.handle before writing more"
)
CROWDED = (
    "the bodies of the guest's requests and responses fill their half of hostMemory, {} bytes; read or drop the "
    "responses before writing more"
)
WRITE_MAX = 65_536
_DRAIN = 65_536


class BodySource(Reader, Protocol):
    """A body that arrives."""

    def trailers(self) -> Fields | None:
        """Return the trailers, once `complete` returned True. Raises OutboundError if the body broke off."""
        ...

    def complete(self) -> bool:
        """Read and discard what has arrived. Return whether the body has ended or broken off."""
        ...

    def close(self) -> None:
        """Release the body: nobody will read more of it."""
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
    """A body that can be read once."""

    def __init__(self, source: BodySource) -> None:
        self.source = source
        self.streamed = False

    def drop(self, host: Host) -> None:
        self.source.close()


@resource("future-trailers")
class FutureTrailers(Entry):
    """The trailers that follow a body."""

    def __init__(self, source: BodySource) -> None:
        self.source = source
        self.taken = False

    def drop(self, host: Host) -> None:
        self.source.close()


class BodySink(Protocol):
    """A body that is sent."""

    def writer(self) -> Writer:
        """Return the host's side of the stream that the guest writes the body to."""
        ...

    def finish(self, trailers: Fields | None) -> None:
        """Mark the body as complete. Raises OutboundError."""
        ...

    def abort(self) -> None:
        """Give the body up. The peer must not take it for complete."""
        ...


class _RequestWriter:
    """The output stream of an outbound request's body."""

    def __init__(self, body: RequestBody, host: Host) -> None:
        self._body = body
        self._host = host
        self._told = False
        self.flushed = body.flushed

    def ready(self) -> bool:
        return self._body.ready()

    def stuck(self) -> bool:
        if self.ready():
            return False
        if self._body.full():
            return not self._body.sent
        return not self._host.exchanges.sending()

    def give_up(self) -> None:
        text = CROWDED.format(self._host.account.bodies) if self._body.sent else UNREAD.format(self._body.held)
        self._body.abort(ErrorCode("internal-error", text))

    def permit(self) -> int:
        # An empty write raises if the body is not wanted any more.
        self.write(b"")
        return min(self._body.permit(), WRITE_MAX)

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

    def writer(self) -> Writer:
        return _RequestWriter(self.body, self._host)

    def finish(self, trailers: Fields | None) -> None:
        try:
            # An empty write raises if too much was written before.
            self.body.write(b"")
        except OutboundError as failure:
            # The future reports any other end of the exchange, as in wasmtime.
            if failure.code.name == BODY_SIZE_REQUEST:
                raise
        self.body.finish(trailers.wire() if trailers is not None else ())

    def abort(self) -> None:
        self.body.abort()


@resource("outgoing-body")
class OutgoingBody(Entry):
    """A body that can be written once."""

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
    """Return the body's input stream. The guest must drop it before the body.

    Errors: the stream was already taken. The error has no payload.
    """
    if body.streamed:
        return ERR
    body.streamed = True
    return ok(InputStream(body.source, parent=body))


@TYPES.function("[static]incoming-body.finish", Own(IncomingBody), result=Own(FutureTrailers))
def incoming_finish(_host: Host, body: IncomingBody) -> FutureTrailers:
    """Take the body, whether it was read or not, and return the future of its trailers."""
    return FutureTrailers(body.source)


@TYPES.function("[method]future-trailers.subscribe", Borrow(FutureTrailers), result=Own(Pollable))
def trailers_subscribe(_host: Host, trailers: FutureTrailers) -> Pollable:
    """Return a pollable that is ready once `get` returns the trailers or an error.

    While the guest waits, the rest of the body is read and discarded.
    """
    return Pollable(trailers.source.complete, parent=trailers)


@TYPES.function(
    "[method]future-trailers.get",
    Borrow(FutureTrailers),
    result=Option(Result(Result(Option(Own(Fields)), ERROR_CODE))),
)
def trailers_get(host: Host, trailers: FutureTrailers) -> Tag:
    """Return none until the body has ended. Then return its trailers, or none in their place if it has no trailers.

    Errors: an `error-code` if the body broke off; an error without a payload on every call after the first that
    returned something.
    """
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
    """Return the output stream of the body. The guest must drop it before it finishes the body.

    Errors: the stream was already taken. The error has no payload.
    """
    if body.streamed:
        return ERR
    body.streamed = True
    return ok(OutputStream(body.sink.writer(), parent=body))


@TYPES.function("[static]outgoing-body.finish", Own(OutgoingBody), Option(Own(Fields)), result=Result(None, ERROR_CODE))
def outgoing_finish(_host: Host, body: OutgoingBody, trailers: Tag) -> Tag:
    """Mark the body as complete, with or without trailers. A body that is dropped instead is aborted.

    Errors: `HTTP-request-body-size` or `HTTP-response-body-size` if its length is not the announced one.
    """
    try:
        body.sink.finish(trailers.payload)
    except OutboundError as failure:
        return err(error_code(failure.code))
    return OK

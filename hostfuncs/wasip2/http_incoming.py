"""wasi:http/types for guests that answer requests: incoming-request, outgoing-response, response-outparam.

The embedder supplies the source of the request's body (`Request.body`) and the receiver of the response (`Responder`).
Either may hold a whole body in memory or stream it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hostfuncs.ending import HostTrap
from hostfuncs.outbound import ErrorCode, OutboundError
from hostfuncs.outbound.fields import content_length
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.http_bodies import IncomingBody, OutgoingBody
from hostfuncs.wasip2.http_fields import Fields, received
from hostfuncs.wasip2.http_types import ERROR_CODE, METHOD, SCHEME, TYPES, describe
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_streams import Closed, Failed, SourceReader, Writer
from hostfuncs.wasip2.responder import Responder
from hostfuncs.wasip2.stdio import Sink, Source
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import (
    ERR,
    OK,
    STRING,
    U16,
    Borrow,
    Option,
    Own,
    Result,
    Tag,
    ok,
    option,
)

UNSET = (
    "the response was not sent yet, and {} bytes of its body are held; call response-outparam.set before writing more"
)
_METHODS = {name.upper(): Tag(name) for name, payload in METHOD.cases if payload is None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request that the guest is to answer.

    Attributes:
        method: a token (RFC 9110).
        path: the path with the query.
        headers: the lines as they arrived. Fields that belong to the connection are not shown to the guest.
        body: the source that `incoming-body` reads from.
    """

    method: str
    scheme: str
    authority: str
    path: str
    headers: Iterable[tuple[bytes, bytes]]
    body: Source


class _PlainSource(SourceReader):
    """The body of an incoming request. It has no trailers: they are not passed on to guests."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._ended = False

    def complete(self) -> bool:
        while not self._ended and self.ready():
            try:
                self.read(65_536)
            except Closed:
                self._ended = True
        return self._ended

    def trailers(self) -> Fields | None:
        return None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


@resource("incoming-request")
class IncomingRequest(Entry):
    """The request that the guest was called with."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.headers = received(request.headers)
        self.consumed = False


@resource("response-outparam")
class ResponseOutparam(Entry):
    """The place where the guest puts its response."""

    def __init__(self, responder: Responder) -> None:
        self.responder = responder


def _size_error(size: int) -> OutboundError:
    """Return the error for a body whose length is not its Content-Length."""
    return OutboundError(ErrorCode("HTTP-response-body-size", size))


class _ResponseSink:
    """The body of a response. The caller receives nothing of it before `response-outparam.set`."""

    def __init__(self, responder: Responder, expected: int | None) -> None:
        self._responder = responder
        self.expected = expected
        self.written = 0
        self.sent = False
        """Whether `response-outparam.set` was called. Before that, nobody receives the body, so waiting is useless."""

    def writer(self) -> Writer:
        return _ResponseWriter(self, self._responder.body)

    def give_up(self, why: str) -> None:
        self._responder.abort(why)

    def finish(self, trailers: Fields | None) -> None:
        if self.expected is not None and self.written != self.expected:
            error = _size_error(self.written)
            self._responder.abort(str(error))
            raise error
        self._responder.finish()

    def abort(self) -> None:
        if self.expected is not None and self.written == self.expected:
            # The body is complete, so that dropping it loses nothing. wasmtime does the same.
            self._responder.finish()
            return
        self._responder.abort("the guest dropped its response's body without finishing it")


class _ResponseWriter:
    def __init__(self, sink: _ResponseSink, target: Sink) -> None:
        self._sink = sink
        self._target = target
        self._told = False
        self._given_up = False

    def ready(self) -> bool:
        return self._given_up or self._target.ready()

    def stuck(self) -> bool:
        return not self._sink.sent and not self.ready()

    def give_up(self) -> None:
        self._given_up = True
        self._sink.give_up(UNSET.format(self._sink.written))

    def _check(self) -> None:
        if self._told:
            raise Closed
        if self._given_up:
            self._told = True
            text = UNSET.format(self._sink.written)
            raise Failed(IoError(text, ErrorCode("internal-error", text)))

    def flushed(self) -> bool:
        return True

    def permit(self) -> int:
        self._check()
        return self._target.permit()

    def write(self, data: bytes) -> None:
        self._check()
        sink = self._sink
        sink.written += len(data)
        if sink.expected is not None and sink.written > sink.expected:
            self._told = True
            error = _size_error(sink.written)
            raise Failed(IoError(str(error), error.code))
        self._target.write(data)


@resource("outgoing-response")
class OutgoingResponse(Entry):
    """A response that the guest is putting together."""

    def __init__(self, headers: Fields) -> None:
        headers.immutable = True
        self.headers = headers
        self.weight = headers.weight
        self.status = 200
        self.sink: _ResponseSink | None = None


TYPES.resources.update(
    {
        "incoming-request": IncomingRequest,
        "response-outparam": ResponseOutparam,
        "outgoing-response": OutgoingResponse,
    }
)


# incoming-request -----------------------------------------------------------------------------------------------------


@TYPES.function("[method]incoming-request.method", Borrow(IncomingRequest), result=METHOD)
def method(_host: Host, incoming: IncomingRequest) -> Tag:
    """Return the request's method."""
    return _METHODS.get(incoming.request.method) or Tag("other", incoming.request.method)


@TYPES.function("[method]incoming-request.path-with-query", Borrow(IncomingRequest), result=Option(STRING))
def path_with_query(_host: Host, incoming: IncomingRequest) -> Tag:
    """Return the path with the query, in `some`."""
    return option(incoming.request.path)


@TYPES.function("[method]incoming-request.scheme", Borrow(IncomingRequest), result=Option(SCHEME))
def scheme(_host: Host, incoming: IncomingRequest) -> Tag:
    """Return the scheme, in `some`."""
    name = incoming.request.scheme
    return option(Tag(name.upper()) if name.lower() in ("http", "https") else Tag("other", name))


@TYPES.function("[method]incoming-request.authority", Borrow(IncomingRequest), result=Option(STRING))
def authority(_host: Host, incoming: IncomingRequest) -> Tag:
    """Return the authority, in `some`."""
    return option(incoming.request.authority)


@TYPES.function("[method]incoming-request.headers", Borrow(IncomingRequest), result=Own(Fields))
def request_headers(_host: Host, incoming: IncomingRequest) -> Fields:
    """Return the header fields. They are immutable."""
    return Fields(incoming.headers.lines, immutable=True)


@TYPES.function("[method]incoming-request.consume", Borrow(IncomingRequest), result=Result(Own(IncomingBody)))
def consume_request(_host: Host, incoming: IncomingRequest) -> Tag:
    """Return the body. The first call succeeds.

    Errors: every later call. The error has no payload.
    """
    if incoming.consumed:
        return ERR
    incoming.consumed = True
    return ok(IncomingBody(_PlainSource(incoming.request.body)))


# outgoing-response ----------------------------------------------------------------------------------------------------


@TYPES.function("[constructor]outgoing-response", Own(Fields), result=Own(OutgoingResponse))
def new_response(_host: Host, headers: Fields) -> OutgoingResponse:
    """Return a response with status 200. Its headers are immutable from now on."""
    return OutgoingResponse(headers)


@TYPES.function("[method]outgoing-response.status-code", Borrow(OutgoingResponse), result=U16)
def status_code(_host: Host, response: OutgoingResponse) -> int:
    """Return the status code."""
    return response.status


@TYPES.function("[method]outgoing-response.set-status-code", Borrow(OutgoingResponse), U16, result=Result())
def set_status_code(_host: Host, response: OutgoingResponse, status: int) -> Tag:
    """Set the status code. Errors: it is not between 100 and 999, as in wasmtime. The error has no payload."""
    if not 100 <= status <= 999:
        return ERR
    response.status = status
    return OK


@TYPES.function("[method]outgoing-response.headers", Borrow(OutgoingResponse), result=Own(Fields))
def response_headers(_host: Host, response: OutgoingResponse) -> Fields:
    """Return the header fields. They are immutable."""
    return Fields(response.headers.lines, immutable=True)


@TYPES.function("[method]outgoing-response.body", Borrow(OutgoingResponse), result=Result(Own(OutgoingBody)))
def response_body(host: Host, response: OutgoingResponse) -> Tag:
    """Return the body. The first call succeeds.

    Errors: every later call; a Content-Length that is not a number. The error has no payload.
    """
    if response.sink is not None:
        return ERR
    try:
        announced = content_length(response.headers.wire())
    except OutboundError:
        return ERR
    response.sink = _ResponseSink(host.responder, announced)
    return ok(OutgoingBody(response.sink))


# response-outparam ----------------------------------------------------------------------------------------------------


@TYPES.function("[static]response-outparam.set", Own(ResponseOutparam), Result(Own(OutgoingResponse), ERROR_CODE))
def set_response(_host: Host, place: ResponseOutparam, answer: Tag) -> None:
    """Answer the request with a response, or with an error code, which the caller sees as a failure of the guest."""
    if answer.name == "err":
        place.responder.refuse(describe(answer.payload))
        return
    response: OutgoingResponse = answer.payload
    if response.sink is not None:
        response.sink.sent = True
    else:
        place.responder.finish()
    place.responder.head(response.status, response.headers.wire())


@TYPES.function(
    "[method]response-outparam.send-informational",
    Borrow(ResponseOutparam),
    U16,
    Own(Fields),
    result=Result(None, ERROR_CODE),
)
def send_informational(_host: Host, _place: ResponseOutparam, _status: int, _headers: Fields) -> Tag:
    """Trap. The function is unstable in WASI 0.2, and wasmtime's host does not support it either.

    Errors: none is ever returned. Traps: always.
    """
    raise HostTrap("wasi:http/types response-outparam.send-informational is not supported")

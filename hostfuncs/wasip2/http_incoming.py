"""wasi:http/types for being called: incoming-request, outgoing-response, response-outparam.

Where the request's body comes from and where the response goes are objects of the caller's (`Request.body`,
`Responder`), so that both can be whole in memory or flow.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from hostfuncs.abi.ending import HostTrap
from hostfuncs.outbound import ErrorCode, OutboundError
from hostfuncs.outbound.fields import content_length
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.http_bodies import IncomingBody, OutgoingBody
from hostfuncs.wasip2.http_fields import Fields, received
from hostfuncs.wasip2.http_types import ERROR_CODE, METHOD, SCHEME, TYPES, describe
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_streams import Closed, Failed, SourceReader, Writer
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

_METHODS = {name.upper(): Tag(name) for name, payload in METHOD.cases if payload is None}


class Responder(Protocol):
    """Takes a guest's response. Calls come in this order: `head`; `body` is written to; `finish` or `abort`."""

    @property
    def body(self) -> Sink:
        """Where the response's body goes."""
        ...

    def head(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """The guest has decided. Its body may have begun before."""
        ...

    def refuse(self, code: str) -> None:
        """Instead of `head`: the guest answers with an error code."""
        ...

    def finish(self) -> None:
        """The body is complete."""
        ...

    def abort(self, why: str) -> None:
        """The body will not be completed."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request for a guest to answer.

    Attributes:
        method: a token.
        path: with query.
        headers: as they came; those that belong to the connection are kept from the guest.
        body: what `incoming-body` reads.
    """

    method: str
    scheme: str
    authority: str
    path: str
    headers: Iterable[tuple[bytes, bytes]]
    body: Source


class _PlainSource(SourceReader):
    """A request's body; trailers do not get this far."""

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
        """Nothing is held."""


@resource("incoming-request")
class IncomingRequest(Entry):
    """The request the guest was called with."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.headers = received(request.headers)
        self.consumed = False


@resource("response-outparam")
class ResponseOutparam(Entry):
    """The place for the answer."""

    def __init__(self, responder: Responder) -> None:
        self.responder = responder


def _size_error(size: int) -> OutboundError:
    """The body is not as long as its Content-Length says."""
    return OutboundError(ErrorCode("HTTP-response-body-size", size))


class _ResponseSink:
    """The body of a response: nothing is promised to the caller until `response-outparam.set`."""

    def __init__(self, responder: Responder, expected: int | None) -> None:
        self._responder = responder
        self.expected = expected
        self.written = 0

    def writer(self) -> Writer:
        return _ResponseWriter(self, self._responder.body)

    def finish(self, trailers: Fields | None) -> None:
        if self.expected is not None and self.written != self.expected:
            error = _size_error(self.written)
            self._responder.abort(str(error))
            raise error
        self._responder.finish()

    def abort(self) -> None:
        self._responder.abort("the guest dropped its response's body without finishing it")


class _ResponseWriter:
    def __init__(self, sink: _ResponseSink, target: Sink) -> None:
        self._sink = sink
        self._target = target
        self._told = False
        self.ready = target.ready

    def flushed(self) -> bool:
        return True

    def permit(self) -> int:
        if self._told:
            raise Closed
        return self._target.permit()

    def write(self, data: bytes) -> None:
        if self._told:
            raise Closed
        sink = self._sink
        sink.written += len(data)
        if sink.expected is not None and sink.written > sink.expected:
            self._told = True
            error = _size_error(sink.written)
            raise Failed(IoError(str(error), error.code))
        self._target.write(data)


@resource("outgoing-response")
class OutgoingResponse(Entry):
    """An answer being put together."""

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
    return _METHODS.get(incoming.request.method) or Tag("other", incoming.request.method)


@TYPES.function("[method]incoming-request.path-with-query", Borrow(IncomingRequest), result=Option(STRING))
def path_with_query(_host: Host, incoming: IncomingRequest) -> Tag:
    return option(incoming.request.path)


@TYPES.function("[method]incoming-request.scheme", Borrow(IncomingRequest), result=Option(SCHEME))
def scheme(_host: Host, incoming: IncomingRequest) -> Tag:
    name = incoming.request.scheme
    return option(Tag(name.upper()) if name.lower() in ("http", "https") else Tag("other", name))


@TYPES.function("[method]incoming-request.authority", Borrow(IncomingRequest), result=Option(STRING))
def authority(_host: Host, incoming: IncomingRequest) -> Tag:
    return option(incoming.request.authority)


@TYPES.function("[method]incoming-request.headers", Borrow(IncomingRequest), result=Own(Fields))
def request_headers(_host: Host, incoming: IncomingRequest) -> Fields:
    """Immutable."""
    return Fields(incoming.headers.lines, immutable=True)


@TYPES.function("[method]incoming-request.consume", Borrow(IncomingRequest), result=Result(Own(IncomingBody)))
def consume_request(_host: Host, incoming: IncomingRequest) -> Tag:
    """The body; once, then an error."""
    if incoming.consumed:
        return ERR
    incoming.consumed = True
    return ok(IncomingBody(_PlainSource(incoming.request.body)))


# outgoing-response ----------------------------------------------------------------------------------------------------


@TYPES.function("[constructor]outgoing-response", Own(Fields), result=Own(OutgoingResponse))
def new_response(_host: Host, headers: Fields) -> OutgoingResponse:
    """Status 200. The headers cannot be changed any more."""
    return OutgoingResponse(headers)


@TYPES.function("[method]outgoing-response.status-code", Borrow(OutgoingResponse), result=U16)
def status_code(_host: Host, response: OutgoingResponse) -> int:
    return response.status


@TYPES.function("[method]outgoing-response.set-status-code", Borrow(OutgoingResponse), U16, result=Result())
def set_status_code(_host: Host, response: OutgoingResponse, status: int) -> Tag:
    """An error outside 100 to 999, as in wasmtime."""
    if not 100 <= status <= 999:
        return ERR
    response.status = status
    return OK


@TYPES.function("[method]outgoing-response.headers", Borrow(OutgoingResponse), result=Own(Fields))
def response_headers(_host: Host, response: OutgoingResponse) -> Fields:
    """Immutable."""
    return Fields(response.headers.lines, immutable=True)


@TYPES.function("[method]outgoing-response.body", Borrow(OutgoingResponse), result=Result(Own(OutgoingBody)))
def response_body(host: Host, response: OutgoingResponse) -> Tag:
    """The body; once, then an error. An error too if Content-Length is no number."""
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
    """Answer the request: with a response, or with an error code."""
    if answer.name == "err":
        place.responder.refuse(describe(answer.payload))
        return
    response: OutgoingResponse = answer.payload
    place.responder.head(response.status, response.headers.wire())
    if response.sink is None:
        place.responder.finish()


@TYPES.function(
    "[method]response-outparam.send-informational",
    Borrow(ResponseOutparam),
    U16,
    Own(Fields),
    result=Result(None, ERROR_CODE),
)
def send_informational(_host: Host, _place: ResponseOutparam, _status: int, _headers: Fields) -> Tag:
    """Unstable in WASI 0.2, and a trap in wasmtime's host and in this one."""
    raise HostTrap("wasi:http/types response-outparam.send-informational is not supported")

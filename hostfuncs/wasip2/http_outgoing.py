"""wasi:http/types for calling out: outgoing-request, request-options, future-incoming-response, incoming-response."""

import re

from hostfuncs.outbound import Exchange, Options, OutboundError, is_method
from hostfuncs.outbound.authority import parse_authority
from hostfuncs.outbound.fields import check_target, content_length
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.http_bodies import BODY_CAPACITY, ExchangeSource, IncomingBody, OutgoingBody, RequestSink
from hostfuncs.wasip2.http_fields import Fields, received
from hostfuncs.wasip2.http_types import ERROR_CODE, METHOD, SCHEME, TYPES, error_code
from hostfuncs.wasip2.io_poll import Pollable
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import (
    ERR,
    NONE,
    OK,
    STRING,
    U16,
    U64,
    Borrow,
    Option,
    Own,
    Result,
    Tag,
    err,
    ok,
    option,
    some,
)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,63}", re.ASCII)
_PATH_MAX = 1 << 16


@resource("outgoing-request")
class OutgoingRequest(Entry):
    """A request being put together."""

    def __init__(self, headers: Fields) -> None:
        headers.immutable = True
        self.headers = headers
        self.weight = headers.weight
        self.method = Tag("get")
        self.path: str | None = None
        self.scheme: Tag | None = None
        self.authority: str | None = None
        self.sink: RequestSink | None = None


@resource("request-options")
class RequestOptions(Entry):
    """Timeouts in nanoseconds."""

    def __init__(self) -> None:
        self.timeouts: dict[str, int | None] = {}

    def options(self) -> Options:
        """As the outbound engine takes them."""
        return Options(
            connect_timeout_ns=self.timeouts.get("connect-timeout"),
            first_byte_timeout_ns=self.timeouts.get("first-byte-timeout"),
            between_bytes_timeout_ns=self.timeouts.get("between-bytes-timeout"),
        )


@resource("future-incoming-response")
class FutureIncomingResponse(Entry):
    """A request that is under way."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.taken = False

    def drop(self, host: Host) -> None:
        if not self.taken:
            self.exchange.close()


@resource("incoming-response")
class IncomingResponse(Entry):
    """Status and headers that arrived, and a body that arrives."""

    def __init__(self, exchange: Exchange) -> None:
        head = exchange.result()
        self.status = head.status
        self.headers = received(head.headers)
        self.weight = self.headers.weight
        self.exchange = exchange
        self.consumed = False

    def drop(self, host: Host) -> None:
        if not self.consumed:
            self.exchange.close()


TYPES.resources.update(
    {
        "outgoing-request": OutgoingRequest,
        "request-options": RequestOptions,
        "future-incoming-response": FutureIncomingResponse,
        "incoming-response": IncomingResponse,
    }
)

_REQUEST = Borrow(OutgoingRequest)


# outgoing-request -----------------------------------------------------------------------------------------------------


@TYPES.function("[constructor]outgoing-request", Own(Fields), result=Own(OutgoingRequest))
def new_request(_host: Host, headers: Fields) -> OutgoingRequest:
    """GET, https, no authority and no path. The headers cannot be changed any more."""
    return OutgoingRequest(headers)


@TYPES.function("[method]outgoing-request.body", _REQUEST, result=Result(Own(OutgoingBody)))
def request_body(host: Host, request: OutgoingRequest) -> Tag:
    """The body, to be written before or after the request is sent; once, then an error. Without it none is sent.

    An error too if Content-Length is no number.
    """
    if request.sink is not None:
        return ERR
    try:
        announced = content_length(request.headers.wire())
    except OutboundError:
        return ERR
    request.sink = RequestSink(host.exchanges.request_body(announced, BODY_CAPACITY), host)
    return ok(OutgoingBody(request.sink))


@TYPES.function("[method]outgoing-request.method", _REQUEST, result=METHOD)
def get_method(_host: Host, request: OutgoingRequest) -> Tag:
    return request.method


@TYPES.function("[method]outgoing-request.set-method", _REQUEST, METHOD, result=Result())
def set_method(_host: Host, request: OutgoingRequest, method: Tag) -> Tag:
    """An error if it is no token."""
    if method.name == "other" and not is_method(method.payload):
        return ERR
    request.method = method
    return OK


@TYPES.function("[method]outgoing-request.path-with-query", _REQUEST, result=Option(STRING))
def get_path(_host: Host, request: OutgoingRequest) -> Tag:
    return option(request.path)


@TYPES.function("[method]outgoing-request.set-path-with-query", _REQUEST, Option(STRING), result=Result())
def set_path(_host: Host, request: OutgoingRequest, path: Tag) -> Tag:
    """An error if it cannot stand in a request line."""
    if path.payload is not None:
        try:
            check_target(path.payload, _PATH_MAX)
        except OutboundError:
            return ERR
    request.path = path.payload
    return OK


@TYPES.function("[method]outgoing-request.scheme", _REQUEST, result=Option(SCHEME))
def get_scheme(_host: Host, request: OutgoingRequest) -> Tag:
    return option(request.scheme)


@TYPES.function("[method]outgoing-request.set-scheme", _REQUEST, Option(SCHEME), result=Result())
def set_scheme(_host: Host, request: OutgoingRequest, scheme: Tag) -> Tag:
    """An error if it is none by RFC 3986. Whether it is supported is said when the request is sent."""
    wanted = scheme.payload
    if wanted is not None and wanted.name == "other" and _SCHEME.fullmatch(wanted.payload) is None:
        return ERR
    request.scheme = wanted
    return OK


@TYPES.function("[method]outgoing-request.authority", _REQUEST, result=Option(STRING))
def get_authority(_host: Host, request: OutgoingRequest) -> Tag:
    return option(request.authority)


@TYPES.function("[method]outgoing-request.set-authority", _REQUEST, Option(STRING), result=Result())
def set_authority(_host: Host, request: OutgoingRequest, authority: Tag) -> Tag:
    """An error if it is not host[:port]."""
    if authority.payload is not None:
        try:
            parse_authority(authority.payload, "https")
        except ValueError:
            return ERR
    request.authority = authority.payload
    return OK


@TYPES.function("[method]outgoing-request.headers", _REQUEST, result=Own(Fields))
def get_headers(_host: Host, request: OutgoingRequest) -> Fields:
    """Immutable."""
    return Fields(request.headers.lines, immutable=True)


# request-options ------------------------------------------------------------------------------------------------------


@TYPES.function("[constructor]request-options", result=Own(RequestOptions))
def new_options(_host: Host) -> RequestOptions:
    """None set: the server's defaults hold."""
    return RequestOptions()


def _define_timeout(name: str) -> None:
    def get(_host: Host, options: RequestOptions) -> Tag:
        return option(options.timeouts.get(name))

    def set_(_host: Host, options: RequestOptions, duration: Tag) -> Tag:
        options.timeouts[name] = duration.payload
        return OK

    me = Borrow(RequestOptions)
    TYPES.define(f"[method]request-options.{name}", get, me, result=Option(U64))
    TYPES.define(f"[method]request-options.set-{name}", set_, me, Option(U64), result=Result())


for _name in ("connect-timeout", "first-byte-timeout", "between-bytes-timeout"):
    _define_timeout(_name)


# future-incoming-response and incoming-response -----------------------------------------------------------------------


@TYPES.function("[method]future-incoming-response.subscribe", Borrow(FutureIncomingResponse), result=Own(Pollable))
def future_subscribe(_host: Host, future: FutureIncomingResponse) -> Pollable:
    """Ready when `get` gives something."""
    return Pollable(future.exchange.done, parent=future)


@TYPES.function(
    "[method]future-incoming-response.get",
    Borrow(FutureIncomingResponse),
    result=Option(Result(Result(Own(IncomingResponse), ERROR_CODE))),
)
def future_get(host: Host, future: FutureIncomingResponse) -> Tag:
    """None until it is there, then once the response or why there is none, then an error."""
    if future.taken:
        return some(ERR)
    exchange = future.exchange
    if not exchange.done():
        host.turn()
        if not exchange.done():
            return NONE
    future.taken = True
    try:
        return some(ok(ok(IncomingResponse(exchange))))
    except OutboundError as failure:
        return some(ok(err(error_code(failure.code))))


@TYPES.function("[method]incoming-response.status", Borrow(IncomingResponse), result=U16)
def get_status(_host: Host, response: IncomingResponse) -> int:
    return response.status


@TYPES.function("[method]incoming-response.headers", Borrow(IncomingResponse), result=Own(Fields))
def get_response_headers(_host: Host, response: IncomingResponse) -> Fields:
    """Immutable."""
    return Fields(response.headers.lines, immutable=True)


@TYPES.function("[method]incoming-response.consume", Borrow(IncomingResponse), result=Result(Own(IncomingBody)))
def consume(_host: Host, response: IncomingResponse) -> Tag:
    """The body; once, then an error."""
    if response.consumed:
        return ERR
    response.consumed = True
    return ok(IncomingBody(ExchangeSource(response.exchange)))

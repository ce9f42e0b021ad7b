"""wasi:http/types for outbound requests and their responses.

Resources: outgoing-request, request-options, future-incoming-response, incoming-response.
"""

import re
import sys

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


def _size(text: str | None) -> int:
    return 0 if text is None else sys.getsizeof(text)


@resource("outgoing-request")
class OutgoingRequest(Entry):
    """A request that the guest is putting together."""

    def __init__(self, headers: Fields) -> None:
        headers.immutable = True
        self.headers = headers
        self.weight = headers.weight
        self.method = Tag("get")
        self.path: str | None = None
        self.scheme: Tag | None = None
        self.authority: str | None = None
        self.sink: RequestSink | None = None

    def keep(self, host: Host, former: str | None, text: str | None) -> None:
        """Count a text that replaces a former one in the host's memory. Raises HostMemoryExceeded."""
        change = _size(text) - _size(former)
        host.account.take(change)
        self.weight += change

    def drop(self, host: Host) -> None:
        if self.sink is not None:
            self.sink.body.close()


@resource("request-options")
class RequestOptions(Entry):
    """The timeouts of a request, in nanoseconds."""

    def __init__(self) -> None:
        self.timeouts: dict[str, int | None] = {}

    def options(self) -> Options:
        """Return the timeouts in the form that the outbound client takes."""
        return Options(
            connect_timeout_ns=self.timeouts.get("connect-timeout"),
            first_byte_timeout_ns=self.timeouts.get("first-byte-timeout"),
            between_bytes_timeout_ns=self.timeouts.get("between-bytes-timeout"),
        )


@resource("future-incoming-response")
class FutureIncomingResponse(Entry):
    """The response of a request that has been sent."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.taken = False
        self.answered = False
        """Whether an IncomingResponse owns the exchange now."""

    def drop(self, host: Host) -> None:
        if not self.answered:
            self.exchange.close()


@resource("incoming-response")
class IncomingResponse(Entry):
    """The status and headers of a response, and its body, which may still be arriving."""

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
    """Return a request with method GET and no scheme, authority or path. Its headers are immutable from now on."""
    return OutgoingRequest(headers)


@TYPES.function("[method]outgoing-request.body", _REQUEST, result=Result(Own(OutgoingBody)))
def request_body(host: Host, request: OutgoingRequest) -> Tag:
    """Return the body, which the guest may write before or after it sends the request. The first call succeeds.

    A request whose body was never taken is sent without one.

    Errors: every later call; a Content-Length that is not a number. The error has no payload.
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
    """Return the method."""
    return request.method


@TYPES.function("[method]outgoing-request.set-method", _REQUEST, METHOD, result=Result())
def set_method(_host: Host, request: OutgoingRequest, method: Tag) -> Tag:
    """Set the method. Errors: it is not a token (RFC 9110). The error has no payload."""
    if method.name == "other" and not is_method(method.payload):
        return ERR
    request.method = method
    return OK


@TYPES.function("[method]outgoing-request.path-with-query", _REQUEST, result=Option(STRING))
def get_path(_host: Host, request: OutgoingRequest) -> Tag:
    """Return the path with the query, or none."""
    return option(request.path)


@TYPES.function("[method]outgoing-request.set-path-with-query", _REQUEST, Option(STRING), result=Result())
def set_path(host: Host, request: OutgoingRequest, path: Tag) -> Tag:
    """Set the path with the query.

    Errors: it may not stand in a request line, or it is too long. The error has no payload.
    """
    if path.payload is not None:
        try:
            check_target(path.payload, _PATH_MAX)
        except OutboundError:
            return ERR
    request.keep(host, request.path, path.payload)
    request.path = path.payload
    return OK


@TYPES.function("[method]outgoing-request.scheme", _REQUEST, result=Option(SCHEME))
def get_scheme(_host: Host, request: OutgoingRequest) -> Tag:
    """Return the scheme, or none."""
    return option(request.scheme)


@TYPES.function("[method]outgoing-request.set-scheme", _REQUEST, Option(SCHEME), result=Result())
def set_scheme(_host: Host, request: OutgoingRequest, scheme: Tag) -> Tag:
    """Set the scheme. `handle` says later whether the scheme is supported.

    Errors: it is not a scheme by RFC 3986. The error has no payload.
    """
    wanted = scheme.payload
    if wanted is not None and wanted.name == "other" and _SCHEME.fullmatch(wanted.payload) is None:
        return ERR
    request.scheme = wanted
    return OK


@TYPES.function("[method]outgoing-request.authority", _REQUEST, result=Option(STRING))
def get_authority(_host: Host, request: OutgoingRequest) -> Tag:
    """Return the authority, or none."""
    return option(request.authority)


@TYPES.function("[method]outgoing-request.set-authority", _REQUEST, Option(STRING), result=Result())
def set_authority(host: Host, request: OutgoingRequest, authority: Tag) -> Tag:
    """Set the authority. Errors: it is not host[:port]. The error has no payload."""
    if authority.payload is not None:
        try:
            parse_authority(authority.payload, "https")
        except ValueError:
            return ERR
    request.keep(host, request.authority, authority.payload)
    request.authority = authority.payload
    return OK


@TYPES.function("[method]outgoing-request.headers", _REQUEST, result=Own(Fields))
def get_headers(_host: Host, request: OutgoingRequest) -> Fields:
    """Return the header fields. They are immutable."""
    return Fields(request.headers.lines, immutable=True)


# request-options ------------------------------------------------------------------------------------------------------


@TYPES.function("[constructor]request-options", result=Own(RequestOptions))
def new_options(_host: Host) -> RequestOptions:
    """Return options without timeouts. The server's defaults hold for each timeout that the guest does not set."""
    return RequestOptions()


def _define_timeout(name: str) -> None:
    def get(_host: Host, options: RequestOptions) -> Tag:
        """Return the timeout in nanoseconds, or none."""
        return option(options.timeouts.get(name))

    def set_(_host: Host, options: RequestOptions, duration: Tag) -> Tag:
        """Set the timeout in nanoseconds; none restores the server's default. Errors: none is ever returned."""
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
    """Return a pollable that is ready once `get` returns the response or an error."""
    return Pollable(future.exchange.done, parent=future)


@TYPES.function(
    "[method]future-incoming-response.get",
    Borrow(FutureIncomingResponse),
    result=Option(Result(Result(Own(IncomingResponse), ERROR_CODE))),
)
def future_get(host: Host, future: FutureIncomingResponse) -> Tag:
    """Return none until the response's head has arrived. Then return the response.

    Errors: an `error-code` if the request failed; an error without a payload on every call after the first that
    returned something.
    """
    if future.taken:
        return some(ERR)
    exchange = future.exchange
    if not exchange.done():
        host.turn()
        if not exchange.done():
            return NONE
    future.taken = True
    try:
        response = IncomingResponse(exchange)
    except OutboundError as failure:
        return some(ok(err(error_code(failure.code))))
    future.answered = True
    return some(ok(ok(response)))


@TYPES.function("[method]incoming-response.status", Borrow(IncomingResponse), result=U16)
def get_status(_host: Host, response: IncomingResponse) -> int:
    """Return the status code."""
    return response.status


@TYPES.function("[method]incoming-response.headers", Borrow(IncomingResponse), result=Own(Fields))
def get_response_headers(_host: Host, response: IncomingResponse) -> Fields:
    """Return the header fields. They are immutable."""
    return Fields(response.headers.lines, immutable=True)


@TYPES.function("[method]incoming-response.consume", Borrow(IncomingResponse), result=Result(Own(IncomingBody)))
def consume(_host: Host, response: IncomingResponse) -> Tag:
    """Return the body. The first call succeeds.

    Errors: every later call. The error has no payload.
    """
    if response.consumed:
        return ERR
    response.consumed = True
    return ok(IncomingBody(ExchangeSource(response.exchange)))

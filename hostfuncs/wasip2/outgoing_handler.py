"""wasi:http/outgoing-handler."""

from hostfuncs.outbound import ErrorCode, Exchange, Options, OutboundError, Request
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.http_outgoing import FutureIncomingResponse, OutgoingRequest, RequestOptions
from hostfuncs.wasip2.http_types import ERROR_CODE, error_code
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.types import Option, Own, Result, Tag, err, ok

INTERFACE = Interface(
    "wasi:http/outgoing-handler",
    {
        "outgoing-request": OutgoingRequest,
        "request-options": RequestOptions,
        "future-incoming-response": FutureIncomingResponse,
    },
)


@INTERFACE.function(
    "handle",
    Own(OutgoingRequest),
    Option(Own(RequestOptions)),
    result=Result(Own(FutureIncomingResponse), ERROR_CODE),
)
def handle(host: Host, request: OutgoingRequest, options: Tag) -> Tag:
    """Begin the request; never waits. What is refused at once is the error here, all else comes from the future.

    As in wasmtime: no scheme means https; no path, or no authority, is HTTP-request-URI-invalid.
    """
    try:
        return ok(FutureIncomingResponse(_start(host, request, options.payload)))
    except OutboundError as refusal:
        if request.sink is not None:
            request.sink.body.close()
        return err(error_code(refusal.code))


def _start(host: Host, request: OutgoingRequest, options: RequestOptions | None) -> Exchange:
    scheme = request.scheme
    if request.path is None or request.authority is None:
        raise OutboundError(ErrorCode("HTTP-request-URI-invalid"))
    wanted = Request(
        method=request.method.payload if request.method.name == "other" else request.method.name.upper(),
        scheme="https" if scheme is None else scheme.payload if scheme.name == "other" else scheme.name.lower(),
        authority=request.authority,
        path_with_query=request.path,
        headers=request.headers.wire(),
    )
    return host.exchanges.start(
        wanted,
        options.options() if options is not None else Options(),
        request.sink.body if request.sink is not None else None,
    )

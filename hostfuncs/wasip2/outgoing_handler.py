"""wasi:http/outgoing-handler: sending a request."""

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
    """Start to send a request, and return the future of its response. Never waits.

    A request without a scheme is sent by https, as in wasmtime. The future reports failures that come later.

    Errors: an `error-code` for a request that is refused at once: `HTTP-request-URI-invalid` without a path or
    authority, and the codes of the egress policy and the limits.
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

"""`default-outgoing-HTTP`: sending. Source: wasi-go, imports/wasi_http/default_http."""

from hostfuncs.abi import HostTrap
from hostfuncs.legacy_http.calls import SMALL_BODY_BYTES, Calls, Function
from hostfuncs.legacy_http.things import Future, Request
from hostfuncs.outbound import ErrorCode, Options, OutboundError
from hostfuncs.outbound import Request as OutboundRequest

_MS = 1_000_000


def handle(
    calls: Calls,
    function: str,
    request: int,
    has_options: int,
    has_connect_timeout: int,
    connect_timeout: int,
    has_first_byte_timeout: int,
    first_byte_timeout: int,
    has_between_bytes_timeout: int,
    between_bytes_timeout: int,
) -> int:
    """Begin to send a request, with the body as it was written so far; `future-incoming-response-get` waits for it.

    Parameters:
        request: stays the guest's, and may be sent again.
        has_...: 0 or 1. Timeouts in milliseconds; cut to the server's.

    Returns:
        A handle of a future. A request that is refused (policy, URL, headers, limits) gets one too: its answer says so.

    Traps: no such request; a flag that is neither 0 nor 1.
    """
    wanted = calls.get(function, "request", request, Request)
    flags = {
        "has_options": has_options,
        "has_connect_timeout": has_connect_timeout,
        "has_first_byte_timeout": has_first_byte_timeout,
        "has_between_bytes_timeout": has_between_bytes_timeout,
    }
    for name, flag in flags.items():
        if flag > 1:
            raise HostTrap(f"{function}: {name} is {flag}; 0 and 1 are defined")
    options = None
    if has_options:
        options = Options(
            connect_timeout_ns=connect_timeout * _MS if has_connect_timeout else None,
            first_byte_timeout_ns=first_byte_timeout * _MS if has_first_byte_timeout else None,
            between_bytes_timeout_ns=between_bytes_timeout * _MS if has_between_bytes_timeout else None,
        )
    exchanges = calls.exchanges
    body = None
    if wanted.content is not None:
        wanted.content.closed = True
        size = len(wanted.content.data)
        if size >= SMALL_BODY_BYTES and not calls.may_hold(size):
            return calls.add(function, Future(None, ErrorCode("HTTP-request-body-size", size)))
        data = bytes(wanted.content.data)
        if data:
            body = exchanges.request_body(capacity=len(data))
            body.write(data)
            body.finish()
    outgoing = OutboundRequest(
        method=wanted.method,
        scheme=wanted.scheme,
        authority=wanted.authority,
        path_with_query=wanted.target,
        headers=wanted.headers,
    )
    try:
        exchange = exchanges.start(outgoing, options, body)
    except OutboundError as exc:
        return calls.add(function, Future(None, exc.code))
    if body is not None:
        calls.sent(exchange, body.written)
    future = Future(exchange, None)
    try:
        return calls.add(function, future)
    except HostTrap:
        exchange.close()
        raise


def request(calls: Calls, function: str, *_reserved: int) -> int:
    """Reserved: answers 0, as the reference does."""
    return 0


FUNCTIONS = (
    Function("handle", "i" * 8, "i", handle),
    Function("request", "i" * 14, "i", request),
)

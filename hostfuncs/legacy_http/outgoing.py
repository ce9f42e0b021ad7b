"""`default-outgoing-HTTP`: sending a request. Source: wasi-go, imports/wasi_http/default_http."""

from hostfuncs.abi import HostTrap
from hostfuncs.legacy_http.calls import Calls, Function
from hostfuncs.legacy_http.resources import Future, Request
from hostfuncs.outbound import Options, OutboundError
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
    """Start to send a request with the body that was written so far.

    `future-incoming-response-get` waits for the response. This function reads and writes no guest memory.

    Parameters:
        request: a handle, which stays the guest's. The same request may be sent again.
        has_...: 0 or 1: whether the options, and each timeout in them, are given.
        ..._timeout: milliseconds. The server's own timeouts are upper bounds.

    Returns:
        A handle of a future. If the request is refused (by policy, URL, headers or limits), the future has the error.

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
        if wanted.content.data:
            body = exchanges.whole_body(wanted.content.data, wanted.content)
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
    future = Future(exchange, None)
    try:
        return calls.add(function, future)
    except HostTrap:
        exchange.close()
        raise


def request(calls: Calls, function: str, *_reserved: int) -> int:
    """Do nothing and return 0, as in the reference, where the function is reserved. Traps: never."""
    return 0


FUNCTIONS = (
    Function("handle", "i" * 8, "i", handle),
    Function("request", "i" * 14, "i", request),
)

"""`types`: requests, responses, header fields, futures. Source: wasi-go, imports/wasi_http/types."""

import re
from functools import lru_cache

from hostfuncs.abi import HostTrap
from hostfuncs.legacy_http.calls import Calls, Function
from hostfuncs.legacy_http.things import (
    Answer,
    Fields,
    Future,
    IncomingRequest,
    Outparam,
    Pairs,
    Pollable,
    Reader,
    Request,
    Response,
    Writer,
)
from hostfuncs.outbound import OutboundError

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
METHOD_OTHER = 9
SCHEMES = ("http", "https")
SCHEME_OTHER = 2

# The draft's `error` variant, which stands where a response's handle would be.
INVALID_URL, TIMEOUT_ERROR, PROTOCOL_ERROR, UNEXPECTED_ERROR = range(4)
_ERRORS = {
    "HTTP-request-URI-invalid": INVALID_URL,
    "HTTP-request-URI-too-long": INVALID_URL,
    "DNS-timeout": TIMEOUT_ERROR,
    "connection-timeout": TIMEOUT_ERROR,
    "connection-read-timeout": TIMEOUT_ERROR,
    "connection-write-timeout": TIMEOUT_ERROR,
    "HTTP-response-timeout": TIMEOUT_ERROR,
}


def new_fields(calls: Calls, function: str, pointer: int, count: int) -> int:
    """Make header fields.

    Parameters:
        pointer, count: array of {name ptr, name len, value ptr, value len}.

    Returns:
        A handle of fields.

    Traps: the array or a string lies outside memory; more entries or bytes than a request may have.
    """
    limits = calls.exchanges.limits
    pairs = []
    total = 0
    for at, (name_at, name_len, value_at, value_len) in enumerate(
        calls.records(function, "fields", pointer, count, limits.header_count, limit="outbound_header_count")
    ):
        total += name_len + value_len
        if total > limits.header_bytes:
            raise HostTrap(
                f"{function}: fields: more than {limits.header_bytes} bytes of names and values",
                limit="outbound_header_bytes",
            )
        name = calls.data(function, f"name of field {at}", name_at, name_len, name_len)
        pairs.append((name, calls.data(function, f"value of field {at}", value_at, value_len, value_len)))
    return calls.add(function, Fields(tuple(pairs)))


def drop_fields(calls: Calls, function: str, fields: int) -> None:
    """Give header fields back. Traps: no such fields."""
    calls.drop(function, "fields", fields, Fields)


def fields_entries(calls: Calls, function: str, fields: int, out: int) -> None:
    """List header fields: every value of a repeated name, in order.

    Parameters:
        out: gets {array ptr, length}; the array is laid out as for `new-fields`, allocated with `cabi_realloc`.

    Traps: no such fields; out outside memory; `cabi_realloc` misbehaves.
    """
    pairs = calls.get(function, "fields", fields, Fields).pairs
    calls.check_answer(function, out, 8)
    calls.answer(function, out, *calls.give_records(function, pairs))


def new_outgoing_request(
    calls: Calls,
    function: str,
    method: int,
    method_ptr: int,
    method_len: int,
    path_ptr: int,
    path_len: int,
    query_ptr: int,
    query_len: int,
    scheme_is_some: int,
    scheme: int,
    scheme_ptr: int,
    scheme_len: int,
    authority_ptr: int,
    authority_len: int,
    headers: int,
) -> int:
    """Make a request to scheme://authority + path + query.

    Parameters:
        method: 0 GET, 1 HEAD, 2 POST, 3 PUT, 4 DELETE, 5 CONNECT, 6 OPTIONS, 7 TRACE, 8 PATCH, 9 other (method_ptr).
        query_ptr: carries its own `?`.
        scheme_is_some, scheme: 0 http, 1 https, 2 other (scheme_ptr); none is https.
        headers: handle of fields; copied, not taken.

    Returns:
        A handle of the request.

    Traps: a number that is none of these; a string outside memory; no such fields. What is wrong with the URL is
    said by the future.
    """
    if method == METHOD_OTHER:
        name = calls.text(function, "method", method_ptr, method_len).decode("latin-1")
    elif method < len(METHODS):
        name = METHODS[method]
    else:
        raise HostTrap(f"{function}: method {method} is unknown; 0 to {METHOD_OTHER} are defined")
    if scheme_is_some > 1:
        raise HostTrap(f"{function}: scheme_is_some is {scheme_is_some}; 0 and 1 are defined")
    if not scheme_is_some:
        scheme_name = "https"
    elif scheme == SCHEME_OTHER:
        scheme_name = calls.text(function, "scheme", scheme_ptr, scheme_len).decode("latin-1")
    elif scheme < len(SCHEMES):
        scheme_name = SCHEMES[scheme]
    else:
        raise HostTrap(f"{function}: scheme {scheme} is unknown; 0 to {SCHEME_OTHER} are defined")
    path = calls.text(function, "path", path_ptr, path_len)
    query = calls.text(function, "query", query_ptr, query_len)
    authority = calls.text(function, "authority", authority_ptr, authority_len).decode("utf-8", "surrogateescape")
    fields = calls.get(function, "headers", headers, Fields)
    request = Request(name, scheme_name, authority, _target(path + query), _sendable(fields.pairs))
    return calls.add(function, request)


_VISIBLE = re.compile(rb"[\x21-\x7e]*")


def _target(text: bytes) -> str:
    """As Go's net/url has it on the wire: the fragment stays here, blanks and non-ASCII bytes are percent-encoded."""
    plain = text.partition(b"#")[0]
    if _VISIBLE.fullmatch(plain) is not None:
        return plain.decode("ascii")
    return "".join(chr(byte) if 0x21 <= byte <= 0x7E else f"%{byte:02X}" for byte in plain)


def _sendable(pairs: Pairs) -> Pairs:
    """Go takes Host from the URL and ignores a header of that name; guests set it in good faith."""
    return tuple((name, value) for name, value in pairs if name.lower() != b"host")


def outgoing_request_write(calls: Calls, function: str, request: int, out: int) -> None:
    """Open the body of a request, once.

    Parameters:
        out: gets {0, stream}, or {1, 0} if it was opened before.

    Traps: no such request; out outside memory.
    """
    wanted = calls.get(function, "request", request, Request)
    calls.check_answer(function, out, 8)
    if wanted.content is not None:
        calls.answer(function, out, 1, 0)
        return
    writer = Writer()
    handle = calls.add(function, writer)
    wanted.content = writer
    calls.answer(function, out, 0, handle)


def drop_outgoing_request(calls: Calls, function: str, request: int) -> None:
    """Give a request back; one that was sent goes on. Traps: no such request."""
    calls.drop(function, "request", request, Request)


def future_incoming_response_get(calls: Calls, function: str, future: int, out: int) -> None:
    """Wait for the head of a response.

    Parameters:
        out: gets {1, 0, response}, or {1, 1, error}: 0 invalid URL, 1 timeout, 2 protocol error (what is neither:
            refused by policy, connection, TLS), 3 unexpected.

    Traps: no such future; out outside memory. Ends the guest at its deadline.
    """
    wanted = calls.get(function, "future", future, Future)
    calls.check_answer(function, out, 12)
    calls.wait(wanted.ready)
    if wanted.response is None and wanted.error is None:
        assert wanted.exchange is not None
        try:
            wanted.exchange.result()
        except OutboundError as exc:
            wanted.error = exc.code
        else:
            wanted.response = Response(wanted.exchange)
            wanted.response_handle = calls.add(function, wanted.response)
    if wanted.error is not None:
        unexpected = UNEXPECTED_ERROR if wanted.error.name == "internal-error" else PROTOCOL_ERROR
        calls.answer(function, out, 1, 1, _ERRORS.get(wanted.error.name, unexpected))
    else:
        calls.answer(function, out, 1, 0, wanted.response_handle)


def drop_future_incoming_response(calls: Calls, function: str, future: int) -> None:
    """Give a future back; a response nobody got is cancelled. Traps: no such future."""
    dropped = calls.drop(function, "future", future, Future)
    if dropped.response is None and dropped.exchange is not None:
        dropped.exchange.close()


def listen_to_future_incoming_response(calls: Calls, function: str, future: int) -> int:
    """Make a pollable that is ready when the response is. Traps: no such future."""
    return calls.add(function, Pollable(calls.get(function, "future", future, Future)))


def incoming_response_status(calls: Calls, function: str, response: int) -> int:
    """The status code. Traps: no such response."""
    return calls.get(function, "response", response, Response).exchange.result().status


def incoming_response_headers(calls: Calls, function: str, response: int) -> int:
    """The header lines, as a handle of fields; names as Go writes them (Content-Type). Traps: no such response."""
    wanted = calls.get(function, "response", response, Response)
    if not calls.alive(wanted.headers_handle):
        pairs = tuple((_canonical(name), value) for name, value in wanted.exchange.result().headers)
        wanted.headers_handle = calls.add(function, Fields(pairs))
    return wanted.headers_handle


@lru_cache(maxsize=256)
def _canonical(name: bytes) -> bytes:
    """Go's CanonicalMIMEHeaderKey: guests compare names with what the reference gave them."""
    return b"-".join(part[:1].upper() + part[1:].lower() for part in name.split(b"-"))


def incoming_response_consume(calls: Calls, function: str, response: int, out: int) -> None:
    """Open the body of a response, once.

    Parameters:
        out: gets {0, stream}, or {1, 0} if it was opened before.

    Traps: no such response; out outside memory.
    """
    wanted = calls.get(function, "response", response, Response)
    calls.check_answer(function, out, 8)
    if wanted.consumed:
        calls.answer(function, out, 1, 0)
        return
    handle = calls.add(function, Reader(wanted.exchange))
    wanted.consumed = True
    calls.answer(function, out, 0, handle)


def drop_incoming_response(calls: Calls, function: str, response: int) -> None:
    """Give a response back; a body that was not opened is cancelled. Traps: no such response."""
    dropped = calls.drop(function, "response", response, Response)
    if not dropped.consumed:
        dropped.exchange.close()


# The server's side. Guests here run as commands: there is no incoming request, so nothing has a handle of one.


def incoming_request_out(calls: Calls, function: str, request: int, out: int) -> None:
    """`incoming-request-method`, `-path`, `-authority`, `-consume`. Traps: a command has no incoming request."""
    calls.get(function, "request", request, IncomingRequest)


def incoming_request_headers(calls: Calls, function: str, request: int) -> int:
    """Traps: a command has no incoming request."""
    calls.get(function, "request", request, IncomingRequest)
    return 0


def drop_incoming_request(calls: Calls, function: str, request: int) -> None:
    """Traps: a command has no incoming request."""
    calls.drop(function, "request", request, IncomingRequest)


def new_outgoing_response(calls: Calls, function: str, status: int, headers: int) -> int:
    """Make a response. Traps: status not 100 to 999; no such fields."""
    if not 100 <= status <= 999:
        raise HostTrap(f"{function}: status {status} is not between 100 and 999")
    calls.get(function, "headers", headers, Fields)
    return calls.add(function, Answer())


def outgoing_response_write(calls: Calls, function: str, response: int, out: int) -> None:
    """Open the body of a response, once: out gets {0, stream}, then {1, 0}. Traps: no such response; out."""
    wanted = calls.get(function, "response", response, Answer)
    calls.check_answer(function, out, 8)
    if wanted.content is not None:
        calls.answer(function, out, 1, 0)
        return
    writer = Writer()
    handle = calls.add(function, writer)
    wanted.content = writer
    calls.answer(function, out, 0, handle)


def set_response_outparam(
    calls: Calls, function: str, outparam: int, is_err: int, response: int, text_ptr: int, text_len: int
) -> int:
    """Traps: a command has nobody to answer."""
    calls.get(function, "outparam", outparam, Outparam)
    return 1


def drop_outgoing_response(calls: Calls, function: str, response: int) -> None:
    """Give a response back. Traps: no such response."""
    calls.drop(function, "response", response, Answer)


def log_it(calls: Calls, function: str, pointer: int, length: int) -> None:
    """Write a line of guest log, cut at 64 KiB. Traps: outside memory."""
    calls.log(calls.text(function, "line", pointer, length))


FUNCTIONS = (
    Function("new-fields", "ii", "i", new_fields),
    Function("drop-fields", "i", "", drop_fields),
    Function("fields-entries", "ii", "", fields_entries),
    Function("new-outgoing-request", "i" * 14, "i", new_outgoing_request),
    Function("outgoing-request-write", "ii", "", outgoing_request_write),
    Function("drop-outgoing-request", "i", "", drop_outgoing_request),
    Function("future-incoming-response-get", "ii", "", future_incoming_response_get),
    Function("drop-future-incoming-response", "i", "", drop_future_incoming_response),
    Function("listen-to-future-incoming-response", "i", "i", listen_to_future_incoming_response),
    Function("incoming-response-status", "i", "i", incoming_response_status),
    Function("incoming-response-headers", "i", "i", incoming_response_headers),
    Function("incoming-response-consume", "ii", "", incoming_response_consume),
    Function("drop-incoming-response", "i", "", drop_incoming_response),
    Function("incoming-request-method", "ii", "", incoming_request_out),
    Function("incoming-request-path", "ii", "", incoming_request_out),
    Function("incoming-request-authority", "ii", "", incoming_request_out),
    Function("incoming-request-consume", "ii", "", incoming_request_out),
    Function("incoming-request-headers", "i", "i", incoming_request_headers),
    Function("drop-incoming-request", "i", "", drop_incoming_request),
    Function("new-outgoing-response", "ii", "i", new_outgoing_response),
    Function("outgoing-response-write", "ii", "", outgoing_response_write),
    Function("set-response-outparam", "iiiii", "i", set_response_outparam),
    Function("drop-outgoing-response", "i", "", drop_outgoing_response),
    Function("log-it", "ii", "", log_it),
)

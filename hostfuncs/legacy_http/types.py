"""`types`: requests, responses, header fields, futures. Source: wasi-go, imports/wasi_http/types."""

import re
from functools import lru_cache

from hostfuncs.abi import HostTrap
from hostfuncs.field_rules import FORBIDDEN_FIELDS
from hostfuncs.legacy_http.calls import Calls, Function
from hostfuncs.legacy_http.resources import (
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
from hostfuncs.limits import Limit
from hostfuncs.outbound import OutboundError

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
METHOD_OTHER = 9
SCHEMES = ("http", "https")
SCHEME_OTHER = 2

# The cases of the draft's `error` variant, which takes the place of a response's handle.
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
        pointer, count: an array of {name pointer, name length, value pointer, value length}, which is read with its
            strings.

    Returns:
        A handle of the fields.

    Traps: the array or a string lies outside memory; more entries or bytes than a request may have.
    """
    limits = calls.exchanges.limits
    pairs = []
    total = 0
    for at, (name_at, name_len, value_at, value_len) in enumerate(
        calls.records(function, "fields", pointer, count, limits.header_count, limit=Limit.OUTBOUND_HEADER_COUNT)
    ):
        total += name_len + value_len
        if total > limits.header_bytes:
            raise HostTrap(
                f"{function}: fields: more than {limits.header_bytes} bytes of names and values",
                limit=Limit.OUTBOUND_HEADER_BYTES,
            )
        name = calls.data(function, f"name of field {at}", name_at, name_len, name_len)
        pairs.append((name, calls.data(function, f"value of field {at}", value_at, value_len, value_len)))
    return calls.add(function, Fields(tuple(pairs)))


def drop_fields(calls: Calls, function: str, fields: int) -> None:
    """Drop the handle of header fields. Traps: no such fields."""
    calls.drop(function, "fields", fields, Fields)


def fields_entries(calls: Calls, function: str, fields: int, out: int) -> None:
    """List header fields: every value of a repeated name, in order.

    Parameters:
        fields: a handle.
        out: gets {array pointer, length}. The array is laid out as for `new-fields`; `cabi_realloc` allocates it and
            its strings.

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
    """Make a request to scheme://authority + path + query. Reads the strings from guest memory.

    Parameters:
        method: 0 GET, 1 HEAD, 2 POST, 3 PUT, 4 DELETE, 5 CONNECT, 6 OPTIONS, 7 TRACE, 8 PATCH, 9 other (the string).
        query_ptr: the query, which begins with `?`.
        scheme_is_some, scheme: 0 http, 1 https, 2 other (the string). Without a scheme it is https.
        headers: a handle of fields, which are copied. The handle stays the guest's.

    Returns:
        A handle of the request.

    Traps: an unknown number for the method or the scheme; a string outside memory; no such fields. The future reports
    errors in the URL.
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


_CACHED_NAME_BYTES = 64
"""The longest name that is cached. Otherwise origins could fill the memory of workers with names."""
_VISIBLE = re.compile(rb"[\x21-\x7e]*")
_ENCODED = tuple(chr(byte) if 0x21 <= byte <= 0x7E else f"%{byte:02X}" for byte in range(256))


def _target(text: bytes) -> str:
    """Return the request target as Go's net/url writes it.

    It has no fragment, and blanks and bytes that are not ASCII are percent-encoded.
    """
    plain = text.partition(b"#")[0]
    if _VISIBLE.fullmatch(plain) is not None:
        return plain.decode("ascii")
    return "".join(map(_ENCODED.__getitem__, plain))


_REPLACED = FORBIDDEN_FIELDS | {b"content-length", b"te", b"trailer", b"user-agent"}
"""The guest's fields that are removed, because the outbound client or `_sendable` sets them."""
_USER_AGENT = b"Go-http-client/1.1"


def _sendable(pairs: Pairs) -> Pairs:
    """Return the header lines of a request as Dapr's host would send them.

    Guests set fields of the connection in good faith. Go ignores their Host, Content-Length and Transfer-Encoding
    (net/http, request.go, reqWriteExcludeHeader). It would pass on the others, which would break the connection here.
    Go adds its own User-Agent if the guest has set none. If the guest has set an empty one, none is sent.
    """
    agent = next((value.strip(b" \t") for name, value in pairs if name.lower() == b"user-agent"), _USER_AGENT)
    lines = tuple((name, value) for name, value in pairs if name.lower() not in _REPLACED)
    return (*lines, (b"User-Agent", agent)) if agent else lines


def outgoing_request_write(calls: Calls, function: str, request: int, out: int) -> None:
    """Open the body of a request. The first call succeeds.

    Parameters:
        request: a handle.
        out: gets {0, handle of an output stream}, or {1, 0} if the body was opened before.

    Traps: no such request; out outside memory.
    """
    _open_body(calls, function, calls.get(function, "request", request, Request), out)


def _open_body(calls: Calls, function: str, message: Request | Answer, out: int) -> None:
    calls.check_answer(function, out, 8)
    if message.content is not None:
        calls.answer(function, out, 1, 0)
        return
    writer = Writer(calls.account)
    handle = calls.add(function, writer)
    message.content = writer
    calls.answer(function, out, 0, handle)


def drop_outgoing_request(calls: Calls, function: str, request: int) -> None:
    """Drop the handle of a request. If it was sent, it goes on. Traps: no such request."""
    calls.drop(function, "request", request, Request)


def future_incoming_response_get(calls: Calls, function: str, future: int, out: int) -> None:
    """Wait for the head of a response.

    Parameters:
        future: a handle.
        out: gets {1, 0, handle of the response}, or {1, 1, error}: 0 invalid URL, 1 timeout, 2 protocol error (also
            refused by policy, connection, TLS), 3 unexpected.

    Traps: no such future; out outside memory. The guest's deadline ends it here.
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
    """Drop the handle of a future. A request whose response nobody took is cancelled. Traps: no such future."""
    dropped = calls.drop(function, "future", future, Future)
    if dropped.response is None and dropped.exchange is not None:
        dropped.exchange.close()


def listen_to_future_incoming_response(calls: Calls, function: str, future: int) -> int:
    """Return a handle of a pollable, which no function takes. Traps: no such future."""
    calls.get(function, "future", future, Future)
    return calls.add(function, Pollable())


def incoming_response_status(calls: Calls, function: str, response: int) -> int:
    """Return the status code. Traps: no such response."""
    return calls.get(function, "response", response, Response).exchange.result().status


def incoming_response_headers(calls: Calls, function: str, response: int) -> int:
    """Return a handle of the header fields, with names as Go writes them (Content-Type).

    The same handle is returned until the guest drops it. Traps: no such response.
    """
    wanted = calls.get(function, "response", response, Response)
    if not calls.alive(wanted.headers_handle):
        lines = wanted.exchange.result().headers
        pairs = tuple(
            ((_canonical_cached if len(name) <= _CACHED_NAME_BYTES else _canonical)(name), value)
            for name, value in lines
        )
        wanted.headers_handle = calls.add(function, Fields(pairs))
    return wanted.headers_handle


def _canonical(name: bytes) -> bytes:
    """Return a field name as Go's CanonicalMIMEHeaderKey writes it. Guests compare names in that spelling."""
    return b"-".join(part[:1].upper() + part[1:].lower() for part in name.split(b"-"))


_canonical_cached = lru_cache(maxsize=256)(_canonical)


def incoming_response_consume(calls: Calls, function: str, response: int, out: int) -> None:
    """Open the body of a response. The first call succeeds.

    Parameters:
        response: a handle.
        out: gets {0, handle of an input stream}, or {1, 0} if the body was opened before.

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
    """Drop the handle of a response. If its body was not opened, the transfer is cancelled. Traps: no such response."""
    dropped = calls.drop(function, "response", response, Response)
    if not dropped.consumed:
        dropped.exchange.close()


# The server's side. Guests here run as commands. There is no incoming request, so no handle of one exists.


def incoming_request_out(calls: Calls, function: str, request: int, out: int) -> None:
    """Trap: `incoming-request-method`, `-path`, `-authority` and `-consume` need a handle of an incoming request.

    Traps: always, because a command has no incoming request.
    """
    calls.get(function, "request", request, IncomingRequest)


def incoming_request_headers(calls: Calls, function: str, request: int) -> int:
    """Trap. Traps: always, because a command has no incoming request."""
    calls.get(function, "request", request, IncomingRequest)
    return 0


def drop_incoming_request(calls: Calls, function: str, request: int) -> None:
    """Trap. Traps: always, because a command has no incoming request."""
    calls.drop(function, "request", request, IncomingRequest)


def new_outgoing_response(calls: Calls, function: str, status: int, headers: int) -> int:
    """Make a response and return its handle. A command cannot send it to anybody.

    Traps: a status that is not between 100 and 999; no such fields.
    """
    if not 100 <= status <= 999:
        raise HostTrap(f"{function}: status {status} is not between 100 and 999")
    calls.get(function, "headers", headers, Fields)
    return calls.add(function, Answer())


def outgoing_response_write(calls: Calls, function: str, response: int, out: int) -> None:
    """Open the body of a response. The first call succeeds.

    Parameters:
        response: a handle.
        out: gets {0, handle of an output stream}, or {1, 0} if the body was opened before.

    Traps: no such response; out outside memory.
    """
    _open_body(calls, function, calls.get(function, "response", response, Answer), out)


def set_response_outparam(
    calls: Calls, function: str, outparam: int, is_err: int, response: int, text_ptr: int, text_len: int
) -> int:
    """Trap. Traps: always, because a command has no request to answer."""
    calls.get(function, "outparam", outparam, Outparam)
    return 1


def drop_outgoing_response(calls: Calls, function: str, response: int) -> None:
    """Drop the handle of a response. Traps: no such response."""
    calls.drop(function, "response", response, Answer)


def log_it(calls: Calls, function: str, pointer: int, length: int) -> None:
    """Write a line to the guest's log.

    It is read from guest memory and cut at 64 KiB. Traps: the line lies outside memory.
    """
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

"""The body of a binding request as Dapr reads it, and error bodies as Dapr writes them.

Dapr decodes the body with Go's encoding/json into a struct and marshals `data` again (dapr pkg/api/http/http.go,
onOutputBindingMessage); guests see the result as stdin, so every byte counts. Two paths give the same answer:

- the fast path, msgspec and a few searches in C, taken when they prove that Go would give this very result;
- the exact path (`gojson_exact`), which follows Go step by step and knows its error messages.
"""

import re
from typing import Any, Final, NamedTuple

import msgspec

from sandboxd.front import gojson_exact
from sandboxd.front.gojson_scan import JsonSyntaxError
from sandboxd.front.gojson_text import number, quote


class Request(NamedTuple):
    """A decoded binding request."""

    operation: str
    metadata: dict[str, str] | None
    data: bytes
    """`data` as json.Marshal gives it; `null` when there was none."""


class MalformedError(Exception):
    """The body is no binding request. The text is the error of Go's decoder."""


class TooLargeError(MalformedError):
    """It might be one, but goes on beyond the limit."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    operation: str = ""
    metadata: dict[str, str] | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _NotOrdinaryError(Exception):
    """The fast path cannot vouch for its result."""


def _float(literal: str) -> msgspec.Raw:
    encoded = number(literal)
    if encoded is None:
        raise _NotOrdinaryError
    return msgspec.Raw(encoded.encode("ascii"))


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_any = msgspec.json.Decoder(Any, float_hook=_float).decode
_encode_any = msgspec.json.Encoder(order="sorted").encode

# A key spelt with escapes could name a field a second time. The names are lower-case ASCII: \u0061 to \u007a.
_escaped_letter = re.compile(rb"\\u00[67]").search
# ASCII strings without anything to escape or to unescape, small integers, and constants stay as they are.
_unchanged = re.compile(rb'"[ !#-%\'-;=?-\[\]-\x7f]*+"|-?[1-9][0-9]{0,14}|0|null|true|false|\{\}|\[\]').fullmatch
# Integers that may not survive float64 digit by digit, and minus zero.
_hard_integer = re.compile(rb"[0-9]{16}|-0(?![.eE])").search
_html = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]").search

_FALLBACK: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _NotOrdinaryError)


def decode(body: bytes, *, cut: bool = False) -> Request:
    """Decode a request body.

    Parameters:
        body: the body, or as much of it as the limit allows (bytes behind the first value are ignored).
        cut: the body went on beyond the limit.

    Raises:
        MalformedError: it is no binding request.
    """
    try:
        request = _decode_ordinary(body)
        if request is None:
            request = Request(*gojson_exact.decode(body, cut=cut))
    except gojson_exact.StreamTooLargeError as fault:
        raise TooLargeError(str(fault)) from None
    except (JsonSyntaxError, gojson_exact.TypeMismatchError, gojson_exact.StreamError) as fault:
        raise MalformedError(str(fault)) from None
    return request


def _decode_ordinary(body: bytes) -> Request | None:
    """The fast path; None if it cannot vouch for its result."""
    try:
        envelope = _decode_envelope(body)
        # msgspec takes the last of duplicate members; Go merges metadata and remembers errors of the earlier ones.
        if (
            body.count(b'"data"') > 1
            or body.count(b'"metadata"') > 1
            or body.count(b'"operation"') > 1
            or (b"\\u00" in body and _escaped_letter(body))
        ):
            return None
        data = bytes(envelope.data)
        return Request(envelope.operation, envelope.metadata, data if _unchanged(data) else _remarshal(data))
    except _FALLBACK:
        return None


def _remarshal(data: bytes) -> bytes:
    """Raises one of _FALLBACK where the result might differ from Go's."""
    if _hard_integer(data):
        raise _NotOrdinaryError
    out = _encode_any(_decode_any(data))
    if _html(out):
        # These bytes occur in strings only, so replacing them everywhere is replacing them in strings.
        out = out.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
        out = out.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return out


def error_body(code: str, message: str, detail: str = "") -> bytes:
    """An error as Dapr answers it: `{"errorCode":...,"message":...}`, HTML-escaped, without a final newline.

    Parameters:
        detail: more for people, in a third member that Dapr does not have; left out if empty.
    """
    extra = f',"detail":{quote(detail)}' if detail else ""
    return f'{{"errorCode":{quote(code)},"message":{quote(message)}{extra}}}'.encode()

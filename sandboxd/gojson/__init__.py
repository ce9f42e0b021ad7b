"""Decodes the body of a binding request as Dapr does, and encodes error bodies as Dapr does.

Dapr decodes the body with Go's encoding/json into a struct and marshals `data` again (dapr pkg/api/http/http.go,
onOutputBindingMessage). Guests read the result as stdin, so it must be equal byte for byte. There are two paths:

- The fast path uses msgspec and a few searches in C. It has a result only where that is certain to be Go's.
- The exact path (`exact`) follows Go step by step and has its error messages.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from hostfuncs import texts
from sandboxd.gojson import exact as gojson_exact
from sandboxd.gojson.scan import JsonSyntaxError
from sandboxd.gojson.text import number, quote

ERROR_TEXT_BYTES: Final = 8 * 1024
"""The longest message, and the longest detail, of an error body. Bytes of UTF-8, before they are escaped."""


class Request(NamedTuple):
    """A decoded binding request."""

    operation: str
    metadata: dict[str, str] | None
    data: bytes
    """`data` as json.Marshal writes it; `null` if the request has none."""


class MalformedError(Exception):
    """The body is not a binding request. The message is that of Go's decoder."""


class TooLargeError(MalformedError):
    """The body exceeds the limit before its first value ends."""


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    operation: str = ""
    metadata: dict[str, str] | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _NotOrdinaryError(Exception):
    """The fast path's result may differ from Go's."""


def _float(literal: str) -> msgspec.Raw:
    encoded = number(literal)
    if encoded is None:
        raise _NotOrdinaryError
    return msgspec.Raw(encoded.encode("ascii"))


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_any = msgspec.json.Decoder(Any, float_hook=_float).decode
_encode_any = msgspec.json.Encoder(order="sorted").encode

# A key with escapes could repeat a field. The fields' names are lower-case ASCII: \u0061 to \u007a.
_escaped_letter = re.compile(rb"\\u00[67]").search
# ASCII strings without escapes or characters to escape, small integers, and constants do not change.
_unchanged = re.compile(rb'"[ !#-%\'-;=?-\[\]-\x7f]*+"|-?[1-9][0-9]{0,14}|0|null|true|false|\{\}|\[\]').fullmatch
# Integers whose digits float64 may change, and minus zero.
_hard_integer = re.compile(rb"[0-9]{16}|-0(?![.eE])").search
_html = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]").search

_new_request: Final[Callable[[type[Request], tuple[str, dict[str, str] | None, bytes]], Request]] = tuple.__new__
_quoted_code = lru_cache(maxsize=64)(quote)

_FALLBACK: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, _NotOrdinaryError)


def decode(body: bytes, *, cut: bool = False) -> Request:
    """Decode a request body.

    Parameters:
        body: the body, cut at the limit. Bytes after the first value are ignored.
        cut: whether the body was longer than the limit.

    Raises:
        MalformedError: it is not a binding request.
        TooLargeError: its first value does not end within the limit.
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
    """Decode on the fast path. Return None if the result may differ from Go's."""
    try:
        envelope = _decode_envelope(body)
        # msgspec uses the last of duplicate members; Go merges metadata and reports errors of the earlier ones.
        if (
            body.count(b'"data"') > 1
            or body.count(b'"metadata"') > 1
            or body.count(b'"operation"') > 1
            or (b"\\u00" in body and _escaped_letter(body))
        ):
            return None
        data = bytes(envelope.data)
        # What `Request(...)` does, without the function in Python that does it.
        return _new_request(
            Request, (envelope.operation, envelope.metadata, data if _unchanged(data) else _remarshal(data))
        )
    except _FALLBACK:
        return None


def _remarshal(data: bytes) -> bytes:
    """Decode and encode `data` again. Raises one of _FALLBACK if the result may differ from Go's."""
    if _hard_integer(data):
        raise _NotOrdinaryError
    out = _encode_any(_decode_any(data))
    if _html(out):
        # These bytes occur only in strings, so they can be replaced everywhere.
        out = out.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
        out = out.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return out


def error_body(code: str, message: str, detail: str = "") -> bytes:
    """Return an error body as Dapr writes it: `{"errorCode":...,"message":...}`, HTML-escaped, without a newline.

    Parameters:
        code: the errorCode.
        message: the message. It is cut to ERROR_TEXT_BYTES, because it may contain texts of callers and guests, and
            escaping takes time.
        detail: an explanation for people, in a third member that Dapr does not have; omitted if empty. It is cut, too.
    """
    if len(message) > ERROR_TEXT_BYTES // 4:  # a shorter one has no more bytes, whatever its characters are
        message = texts.bounded(message, ERROR_TEXT_BYTES)
    return b"".join(error_parts(code, (message,), detail))


def error_parts(code: str, message: Iterable[str], detail: str = "") -> tuple[bytes, ...]:
    """Return the parts of an error body, between which something may be put that needs no escape, such as digits.

    Parameters:
        code, detail: see `error_body`.
        message: the parts of the message. They are not cut.
    """
    extra = f',"detail":{quote(texts.bounded(detail, ERROR_TEXT_BYTES))}' if detail else ""
    first, *rest = (quote(part)[1:-1].encode() for part in message)
    parts = (f'{{"errorCode":{_quoted_code(code)},"message":"'.encode() + first, *rest)
    return (*parts[:-1], parts[-1] + f'"{extra}}}'.encode())

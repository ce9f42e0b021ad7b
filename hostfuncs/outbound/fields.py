"""Checks methods, header names and header values, and their sizes.

The forbidden names are those of wasmtime's wasi-http (`DEFAULT_FORBIDDEN_HEADERS`): hop-by-hop fields and Host, which
belong to the connection and not to the guest.
"""

import re
from collections.abc import Iterable

from hostfuncs.field_rules import FORBIDDEN_FIELDS
from hostfuncs.outbound.errors import ErrorCode, FieldSizePayload, OutboundError
from hostfuncs.outbound.values import Fields

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9110 section 5.5, obs-text included; white space around a value is not a part of it.
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\x20\x09\x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_TARGET = re.compile(r"[\x21-\x22\x24-\x7e]*")
_LINE_OVERHEAD = 4  # ": " and CR LF

MAX_NAME_BYTES = 64 * 1024 - 1
"""The longest field name. It is that of the `http` crate, which wasmtime uses."""


def is_method(method: str) -> bool:
    """Return whether it is a token by RFC 9110, at most 64 characters."""
    return len(method) <= 64 and method.isascii() and _TOKEN.fullmatch(method.encode("ascii")) is not None


def is_field_name(name: bytes) -> bool:
    """Return whether it is a token by RFC 9110."""
    return len(name) <= MAX_NAME_BYTES and _TOKEN.fullmatch(name) is not None


def is_field_value(value: bytes) -> bool:
    """Return whether it is a field value by RFC 9110: visible characters, inner blanks and obs-text."""
    return _VALUE.fullmatch(value.strip(b" \t")) is not None


def trimmed(fields: Fields) -> Fields:
    """Return lines without the blanks and tabs around their values, which are not part of them (RFC 9110, 5.5)."""
    if all(value.strip(b" \t") == value for _, value in fields):
        return fields
    return tuple((name, value.strip(b" \t")) for name, value in fields)


def is_forbidden(name: bytes) -> bool:
    """Return whether guests may not set a field. Case does not matter."""
    return name.lower() in FORBIDDEN_FIELDS


def check_target(target: str, limit: int) -> bytes:
    """Turn path-with-query into a request target.

    Raises:
        OutboundError: HTTP-request-URI-too-long over `limit` bytes; HTTP-request-URI-invalid for characters that must
            be percent-encoded, for a fragment, and if the text begins with neither `/` nor `?`.
    """
    if len(target) > limit:
        raise OutboundError(ErrorCode("HTTP-request-URI-too-long"))
    if not target:
        return b"/"
    if target.startswith("?"):
        target = "/" + target
    if (not target.startswith("/") and target != "*") or _TARGET.fullmatch(target) is None:
        raise OutboundError(ErrorCode("HTTP-request-URI-invalid"))
    return target.encode("ascii")


def check_fields(
    fields: Iterable[tuple[bytes, bytes]], *, limit_bytes: int, limit_count: int, trailers: bool = False
) -> int:
    """Check the header or trailer lines of a guest, and return their size in bytes.

    Parameters:
        fields: the lines.
        limit_bytes: the most bytes of all lines together, and of each one.
        limit_count: the most lines.
        trailers: whether they are trailer lines.

    Raises:
        OutboundError: HTTP-protocol-error for a forbidden or malformed field; HTTP-request-header-section-size,
            HTTP-request-header-size, HTTP-request-trailer-section-size or HTTP-request-trailer-size over the limits.
    """
    total = count = 0
    for name, value in fields:
        if not is_field_name(name) or not is_field_value(value) or is_forbidden(name):
            raise OutboundError(ErrorCode("HTTP-protocol-error"))
        # RFC 9110 section 10.1.4: TE is hop-by-hop, and this is the only value that HTTP/2 allows.
        if name.lower() == b"te" and value.strip().lower() != b"trailers":
            raise OutboundError(ErrorCode("HTTP-protocol-error"))
        if trailers and name.lower() in (b"content-length", b"trailer", b"te", b"expect"):
            raise OutboundError(ErrorCode("HTTP-protocol-error"))
        size = len(name) + len(value) + _LINE_OVERHEAD
        if size > limit_bytes:
            payload = FieldSizePayload(name[:64].decode("latin-1"), min(size, 0xFFFFFFFF))
            raise OutboundError(
                ErrorCode("HTTP-request-trailer-size" if trailers else "HTTP-request-header-size", payload)
            )
        total += size
        count += 1
    if total > limit_bytes or count > limit_count:
        section = "HTTP-request-trailer-section-size" if trailers else "HTTP-request-header-section-size"
        raise OutboundError(ErrorCode(section, min(total, 0xFFFFFFFF)))
    return total


def check_received(
    fields: Iterable[tuple[bytes, bytes]], *, limit_bytes: int, limit_count: int, trailers: bool = False
) -> int:
    """Check the lines of an origin, and return their size in bytes. See `check_fields` for the parameters.

    Raises:
        OutboundError: HTTP-response-header-section-size or HTTP-response-trailer-section-size.
    """
    total = count = 0
    for name, value in fields:
        total += len(name) + len(value) + _LINE_OVERHEAD
        count += 1
    if total > limit_bytes or count > limit_count:
        section = "HTTP-response-trailer-section-size" if trailers else "HTTP-response-header-section-size"
        raise OutboundError(ErrorCode(section, min(total, 0xFFFFFFFF)))
    return total


_FRAMINGS = frozenset((b"content-length", b"transfer-encoding"))


def frames_twice(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a head has Content-Length and Transfer-Encoding.

    RFC 9112, section 6.3: it may be an attempt to split responses, and ought to be handled as an error.
    """
    return {name.lower() for name, _ in fields} >= _FRAMINGS


def content_length(fields: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return the Content-Length that the lines announce; None if they announce none.

    Raises:
        OutboundError: HTTP-protocol-error if it is not a number or there are several that differ.
    """
    found: int | None = None
    for name, value in fields:
        if name.lower() != b"content-length":
            continue
        text = value.strip()
        if not text.isdigit() or len(text) > 19 or (found is not None and found != int(text)):
            raise OutboundError(ErrorCode("HTTP-protocol-error"))
        found = int(text)
    return found

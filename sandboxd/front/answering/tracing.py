"""W3C trace context and baggage of a request, as Dapr treats them.

Sources: dapr pkg/diagnostics/http_tracing.go and utils/trace_utils.go; W3C Trace Context; baggage.Parse of
opentelemetry-go v1.43 (baggage/baggage.go).
"""

import random
import re
from typing import Final

from sandboxd.gojson.text import go_quote

MAX_BAGGAGE_BYTES: Final = 8192
MAX_BAGGAGE_MEMBERS: Final = 64
MAX_FAULTS: Final = 64
"""The most faults of a header that an answer names. opentelemetry-go names all, so its answer outgrows the request."""

_traceparent = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_bits = random.Random().getrandbits  # noqa: S311 - span ids need to differ, not to be secret

_KEY = r"[!#-'*+\-.0-9A-Z^-z|~]+"
_VALUE = r"[!#-+\--:<-\[\]-~]*"
_key = re.compile(_KEY).fullmatch
_value = re.compile(_VALUE).fullmatch
_malformed_escape = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}").search


def new_span(header: bytes | None) -> str:
    """Return the traceparent of a new span: a child of the caller's, or the first of a new trace.

    sandboxd exports no spans of its own, so a trace is marked sampled only if the caller's was.

    Parameters:
        header: the request's traceparent.
    """
    if header is not None:
        match = _traceparent(header)
        if match is not None:
            version, trace, parent, flags, rest = match.groups()
            known = version != b"ff" and not (version == b"00" and rest is not None)
            if known and trace.strip(b"0") and parent.strip(b"0"):
                return f"00-{trace.decode()}-{_bits(64) or 1:016x}-{int(flags, 16) & 1:02x}"
    # One number for both ids; that either is zero is too unlikely to happen.
    digits = f"{_bits(192):048x}"
    return f"00-{digits[:32]}-{digits[32:]}-00"


def baggage_fault(header: str) -> str:
    """Return opentelemetry-go's errors for a baggage header, a line each; empty if it is well-formed."""
    if not header:
        return ""
    size = len(header.encode("utf-8", "surrogateescape"))
    if size > MAX_BAGGAGE_BYTES:
        return f"baggage-string too large: {size}"
    names: set[str] = set()
    faults = [fault for fault in (_member_fault(member, names) for member in header.split(",")) if fault]
    if len(names) > MAX_BAGGAGE_MEMBERS:
        faults.append("too many list-members in baggage-string")
    return "\n".join(faults[:MAX_FAULTS])


def _member_fault(member: str, names: set[str]) -> str:
    pair, semicolon, properties = member.partition(";")
    for item in properties.split(";") if semicolon else ():
        if item and not _property_ok(item):
            return f"invalid baggage list-member property: {go_quote(item)}"
    name, equals, value = pair.partition("=")
    if not equals:
        return f"invalid baggage list-member: {go_quote(member)}"
    name = name.strip()
    if not _key(name):
        return f"invalid key: {go_quote(name)}"
    if not _value(value.strip()):
        return f"invalid value: {go_quote(value)}"
    bad = _bad_escape(value)
    if bad:
        return f"invalid value: invalid URL escape {go_quote(bad)}"
    names.add(name)
    return ""


def _property_ok(item: str) -> bool:
    name, equals, value = item.partition("=")
    if not _key(name.strip()):
        return False
    return not equals or (_value(value.strip()) is not None and not _bad_escape(value))


def _bad_escape(value: str) -> str:
    """Return the first malformed percent escape, as url.PathUnescape names it; empty if there is none."""
    match = _malformed_escape(value.strip())
    return match.group() if match else ""

"""wasi:http/types: the interface and its `error-code`. Its resources are in the other files named `http_...`."""

from typing import Any

from hostfuncs import texts
from hostfuncs.outbound import DnsErrorPayload, ErrorCode, FieldSizePayload, TlsAlertPayload
from hostfuncs.outbound.errors import ERROR_CODES
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_poll import Pollable
from hostfuncs.wasip2.io_streams import InputStream, OutputStream
from hostfuncs.wasip2.types import (
    NONE,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Borrow,
    Option,
    Record,
    Tag,
    Type,
    Variant,
    option,
    some,
)

TYPES = Interface(
    "wasi:http/types",
    {
        "io-error": IoError,
        "error": IoError,
        "pollable": Pollable,
        "input-stream": InputStream,
        "output-stream": OutputStream,
    },
)

METHOD = Variant(
    (
        *((name, None) for name in ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")),
        ("other", STRING),
    )
)
SCHEME = Variant((("HTTP", None), ("HTTPS", None), ("other", STRING)))

_DNS = Record((("rcode", Option(STRING)), ("info-code", Option(U16))))
_ALERT = Record((("alert-id", Option(U8)), ("alert-message", Option(STRING))))
_FIELD_SIZE = Record((("field-name", Option(STRING)), ("field-size", Option(U32))))

_PAYLOADS: dict[str, Type] = {
    "DNS-error": _DNS,
    "TLS-alert-received": _ALERT,
    "HTTP-request-body-size": Option(U64),
    "HTTP-request-header-section-size": Option(U32),
    "HTTP-request-header-size": Option(_FIELD_SIZE),
    "HTTP-request-trailer-section-size": Option(U32),
    "HTTP-request-trailer-size": _FIELD_SIZE,
    "HTTP-response-header-section-size": Option(U32),
    "HTTP-response-header-size": _FIELD_SIZE,
    "HTTP-response-body-size": Option(U64),
    "HTTP-response-trailer-section-size": Option(U32),
    "HTTP-response-trailer-size": _FIELD_SIZE,
    "HTTP-response-transfer-coding": Option(STRING),
    "HTTP-response-content-coding": Option(STRING),
    "internal-error": Option(STRING),
}

ERROR_CODE = Variant(tuple((name, _PAYLOADS.get(name)) for name in ERROR_CODES))

_CEILINGS = {Option(U32): 0xFFFF_FFFF, Option(U64): (1 << 64) - 1}


def error_code(code: ErrorCode) -> Tag:
    """Return an error code in the form that a component receives."""
    kind, payload = _PAYLOADS.get(code.name), code.payload
    match kind, payload:
        case None, _:
            return Tag(code.name)
        case Record(), DnsErrorPayload(rcode, info):
            return Tag(code.name, (option(rcode), option(info)))
        case Record(), TlsAlertPayload(alert, message):
            return Tag(code.name, (option(alert), option(message)))
        case Record(), FieldSizePayload(name, size):
            return Tag(code.name, (option(name), option(size)))
        case Record(), _:
            return Tag(code.name, (NONE, NONE))
        case Option(), None:
            return Tag(code.name, NONE)
        case Option(), FieldSizePayload(name, size):
            return Tag(code.name, some((option(name), option(size))))
        case Option(), int(size):
            return Tag(code.name, some(min(size, _CEILINGS[kind])))
        case _:
            return Tag(code.name, some(payload))


def _plain(value: Any) -> Any:
    if isinstance(value, Tag):
        return None if value.name == "none" else _plain(value.payload)
    if isinstance(value, tuple):
        parts = (texts.bounded(str(part), texts.PART_BYTES) for part in map(_plain, value) if part is not None)
        return ", ".join(parts) or None
    return value


def describe(code: Tag) -> str:
    """Return the text, for people, of an error code that a component gave. Texts of the component in it are cut."""
    payload = _plain(code.payload)
    return code.name if payload is None else f"{code.name} ({texts.bounded(str(payload), texts.PART_BYTES)})"


@TYPES.function("http-error-code", Borrow(IoError), result=Option(ERROR_CODE))
def http_error_code(_host: Host, error: IoError) -> Tag:
    """Return the error code behind a stream's failure, or none if the stream is no body of a request or response."""
    return NONE if error.code is None else some(error_code(error.code))

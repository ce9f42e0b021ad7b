"""The error codes of outbound requests as wasi-http names them, and the table that maps failures to them.

The names are the cases of `variant error-code` in wasi:http/types@0.2. Failures are recognised by exception type,
errno, getaddrinfo code or OpenSSL's numbers, never by the text of a message.
"""

import asyncio
import errno
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import h11


@dataclass(frozen=True, slots=True)
class DnsErrorPayload:
    """`record DNS-error-payload`."""

    rcode: str | None = None
    info_code: int | None = None


@dataclass(frozen=True, slots=True)
class TlsAlertPayload:
    """`record TLS-alert-received-payload`."""

    alert_id: int | None = None
    alert_message: str | None = None


@dataclass(frozen=True, slots=True)
class FieldSizePayload:
    """`record field-size-payload`."""

    field_name: str | None = None
    field_size: int | None = None


ERROR_CODES = (
    "DNS-timeout",
    "DNS-error",
    "destination-not-found",
    "destination-unavailable",
    "destination-IP-prohibited",
    "destination-IP-unroutable",
    "connection-refused",
    "connection-terminated",
    "connection-timeout",
    "connection-read-timeout",
    "connection-write-timeout",
    "connection-limit-reached",
    "TLS-protocol-error",
    "TLS-certificate-error",
    "TLS-alert-received",
    "HTTP-request-denied",
    "HTTP-request-length-required",
    "HTTP-request-body-size",
    "HTTP-request-method-invalid",
    "HTTP-request-URI-invalid",
    "HTTP-request-URI-too-long",
    "HTTP-request-header-section-size",
    "HTTP-request-header-size",
    "HTTP-request-trailer-section-size",
    "HTTP-request-trailer-size",
    "HTTP-response-incomplete",
    "HTTP-response-header-section-size",
    "HTTP-response-header-size",
    "HTTP-response-body-size",
    "HTTP-response-trailer-section-size",
    "HTTP-response-trailer-size",
    "HTTP-response-transfer-coding",
    "HTTP-response-content-coding",
    "HTTP-response-timeout",
    "HTTP-upgrade-failed",
    "HTTP-protocol-error",
    "loop-detected",
    "configuration-error",
    "internal-error",
)
"""Every case of `variant error-code`, in the order of the WIT (the position is the discriminant)."""

Payload = DnsErrorPayload | TlsAlertPayload | FieldSizePayload | int | str | None


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One case of wasi-http's `error-code`.

    Parameters:
        name: the case's name exactly as the WIT has it, `DNS-error` for example; a member of `ERROR_CODES`.
        payload: the case's payload: a record, an int for a size, or a str for a text. None if the case has no payload,
            and for the `none` of an optional one.
    """

    name: str
    payload: Payload = None


class OutboundError(Exception):
    """A request failed or was refused.

    Parameters:
        code: the error code for the guest.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name if code.payload is None else f"{code.name} {code.payload}")
        self.code = code


# What connections raise --------------------------------------------------------------------------------------------


class Unanswered(Exception):  # noqa: N818 - names what happened
    """The connection ended before any byte of a response. The origin may or may not have acted on the request."""


class Cut(Exception):  # noqa: N818 - names what happened
    """The connection ended within a response."""


class Unresolved(Exception):  # noqa: N818 - names what happened
    """The name has no usable address, and the resolver gave no reason."""


class Phase(StrEnum):
    """The phases of an exchange. They decide the error code of a timeout."""

    WAITING = "waiting"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    HEAD = "head"
    BODY = "body"


_TIMEOUTS = {
    Phase.WAITING: "connection-limit-reached",
    Phase.RESOLVING: "DNS-timeout",
    Phase.CONNECTING: "connection-timeout",
    Phase.HEAD: "connection-read-timeout",
    Phase.BODY: "connection-read-timeout",
}

_ERRNOS = {
    errno.ECONNREFUSED: "connection-refused",
    errno.ECONNRESET: "connection-terminated",
    errno.ECONNABORTED: "connection-terminated",
    errno.EPIPE: "connection-terminated",
    errno.ENOTCONN: "connection-terminated",
    errno.ESHUTDOWN: "connection-terminated",
    errno.ETIMEDOUT: "connection-timeout",
    errno.ENETUNREACH: "destination-IP-unroutable",
    errno.EHOSTUNREACH: "destination-IP-unroutable",
    errno.ENETDOWN: "destination-IP-unroutable",
    errno.EHOSTDOWN: "destination-unavailable",
    errno.EADDRNOTAVAIL: "destination-unavailable",
    errno.EAFNOSUPPORT: "destination-IP-unroutable",
    errno.EACCES: "destination-unavailable",
    errno.EPERM: "destination-unavailable",
    errno.EMFILE: "connection-limit-reached",
    errno.ENFILE: "connection-limit-reached",
    errno.ENOBUFS: "connection-limit-reached",
    errno.ENOMEM: "connection-limit-reached",
}

# getaddrinfo does not return the RCODE, but each of its errors stands for one (RFC 1035, section 4.1.1).
_GAI_RCODES = {
    socket.EAI_NONAME: "NXDOMAIN",
    getattr(socket, "EAI_NODATA", -5): "NODATA",
    socket.EAI_AGAIN: "SERVFAIL",
    socket.EAI_FAIL: "SERVFAIL",
    getattr(socket, "EAI_ADDRFAMILY", -9): "NODATA",
}

# OpenSSL's names of a peer's alerts, such as SSLV3_ALERT_HANDSHAKE_FAILURE and TLSV1_UNRECOGNIZED_NAME.
_ALERT_REASON = re.compile(r"(?:SSL|TLS)V\d+_(?:ALERT_)?(\w+)")
# The alerts of RFC 8446, section 6, that ssl.AlertDescription lacks or names otherwise.
_ALERTS = {
    "INAPPROPRIATE_FALLBACK": 86,
    "USER_CANCELED": 90,
    "MISSING_EXTENSION": 109,
    "CERTIFICATE_REQUIRED": 116,
    "NO_APPLICATION_PROTOCOL": 120,
} | {alert.name.removeprefix("ALERT_DESCRIPTION_"): alert.value for alert in ssl.AlertDescription}

# By h11's hint of the status with which a server would answer: the error code for a client.
_H11_HINTS = {431: "HTTP-response-header-section-size", 501: "HTTP-response-transfer-coding"}


def _unnamed(failure: BaseException, _phase: Phase) -> ErrorCode:
    return ErrorCode("internal-error", type(failure).__name__)


_of_library: Callable[[BaseException, Phase], ErrorCode] = _unnamed


def name_library_failures(code_of: Callable[[BaseException, Phase], ErrorCode]) -> None:
    """Set the function that names failures of httpcore2 and h2. `httpcore_adapter` does it when it is loaded.

    Parameters:
        code_of: a function like `code_of` below.
    """
    global _of_library
    _of_library = code_of


_HTTP2_LIBRARIES = frozenset({"httpcore2", "h2"})

# One row per exception type. The first that fits counts, so subclasses come before their base classes.
_TYPES: tuple[tuple[type[BaseException], str], ...] = (
    (Unanswered, "connection-terminated"),
    (Cut, "HTTP-response-incomplete"),
    (asyncio.IncompleteReadError, "HTTP-response-incomplete"),
    (ConnectionError, "connection-terminated"),
)


def code_of(failure: BaseException, phase: Phase) -> ErrorCode:
    """Return the wasi-http error code of a failure.

    Parameters:
        failure: an exception of a connection, asyncio, ssl, h11 or httpcore2.
        phase: the phase of the exchange.
    """
    if isinstance(failure, OutboundError):
        return failure.code
    if type(failure).__module__.partition(".")[0] in _HTTP2_LIBRARIES:
        return _of_library(failure, phase)
    if isinstance(failure, (Unresolved, UnicodeError)):
        return ErrorCode("DNS-error", DnsErrorPayload("NODATA"))
    if isinstance(failure, socket.gaierror):
        return ErrorCode("DNS-error", DnsErrorPayload(_GAI_RCODES.get(failure.errno or 0, "SERVFAIL")))
    if isinstance(failure, ssl.SSLError):
        return _tls_code(failure, phase)
    if isinstance(failure, h11.RemoteProtocolError):
        if phase is Phase.BODY and failure.error_status_hint == 431:
            return ErrorCode("HTTP-response-trailer-section-size")
        return ErrorCode(_H11_HINTS.get(failure.error_status_hint, "HTTP-protocol-error"))
    for kind, name in _TYPES:
        if isinstance(failure, kind) and not (isinstance(failure, OSError) and failure.errno in _ERRNOS):
            return within(name, phase)
    if isinstance(failure, OSError):
        if isinstance(failure, TimeoutError) and failure.errno is None:
            return ErrorCode(_TIMEOUTS[phase])
        known = _ERRNOS.get(failure.errno or 0)
        if known is not None:
            return within(known, phase)
        return ErrorCode("destination-unavailable" if phase is Phase.CONNECTING else "connection-terminated")
    return ErrorCode("internal-error", type(failure).__name__)


def within(name: str, phase: Phase) -> ErrorCode:
    """Return the error code `name`, or the one that replaces it in this phase.

    By IANA's registry of these codes, connection-terminated means that no part of the response was received.
    """
    return ErrorCode("HTTP-response-incomplete" if name == "connection-terminated" and phase is Phase.BODY else name)


def _tls_code(failure: ssl.SSLError, phase: Phase) -> ErrorCode:
    if isinstance(failure, ssl.SSLCertVerificationError):
        return ErrorCode("TLS-certificate-error")
    if isinstance(failure, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return within("connection-terminated", phase)
    received = _ALERT_REASON.fullmatch(getattr(failure, "reason", None) or "")
    alert = received[1].replace("CANCELLED", "CANCELED") if received else ""
    if alert in _ALERTS:
        return ErrorCode("TLS-alert-received", TlsAlertPayload(_ALERTS[alert], alert.lower()))
    return ErrorCode("TLS-protocol-error")

"""Translates error codes of wasi-http to exceptions of httpx, and back: one table for each direction."""

import httpx2 as httpx

from hostfuncs.outbound.errors import ErrorCode, OutboundError, Phase, within

# The exception of httpx for each error code, so that code for httpx, such as one that retries, works with them.
_CLASSES: dict[str, type[httpx.TransportError]] = {
    "DNS-timeout": httpx.ConnectTimeout,
    "DNS-error": httpx.ConnectError,
    "destination-not-found": httpx.ConnectError,
    "destination-unavailable": httpx.ConnectError,
    "destination-IP-prohibited": httpx.ConnectError,
    "destination-IP-unroutable": httpx.ConnectError,
    "connection-refused": httpx.ConnectError,
    "connection-terminated": httpx.ReadError,
    "connection-timeout": httpx.ConnectTimeout,
    "connection-read-timeout": httpx.ReadTimeout,
    "connection-write-timeout": httpx.WriteTimeout,
    "connection-limit-reached": httpx.PoolTimeout,
    "TLS-protocol-error": httpx.ConnectError,
    "TLS-certificate-error": httpx.ConnectError,
    "TLS-alert-received": httpx.ConnectError,
    "HTTP-response-timeout": httpx.ReadTimeout,
}

# One row per exception type. The first that fits counts, so subclasses come before their base classes.
_TYPES: tuple[tuple[type[Exception], str], ...] = (
    (httpx.ConnectTimeout, "connection-timeout"),
    (httpx.WriteTimeout, "connection-write-timeout"),
    (httpx.PoolTimeout, "connection-limit-reached"),
    (httpx.TimeoutException, "connection-read-timeout"),
    (httpx.ConnectError, "destination-unavailable"),
    (httpx.ProxyError, "destination-unavailable"),
    (httpx.NetworkError, "connection-terminated"),
    (httpx.UnsupportedProtocol, "HTTP-protocol-error"),
    (httpx.ProtocolError, "HTTP-protocol-error"),
    (httpx.DecodingError, "HTTP-response-content-coding"),
    (httpx.TooManyRedirects, "loop-detected"),
    (httpx.InvalidURL, "HTTP-request-URI-invalid"),
)


def failure(error: OutboundError, request: httpx.Request) -> httpx.TransportError:
    """Return the exception of httpx for a failed request. Raise it from `error`, which has the error code."""
    name = error.code.name
    kind = _CLASSES.get(name)
    if kind is None:
        kind = httpx.RemoteProtocolError if name.startswith("HTTP-response") else httpx.LocalProtocolError
    return kind(str(error), request=request)


def cause_of(failed: BaseException) -> OutboundError | None:
    """Return the inner transport's error among the causes of a transport's exception; None if there is none."""
    seen: set[int] = set()
    cause: BaseException | None = failed
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, OutboundError):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def code_of(failed: BaseException, phase: Phase) -> ErrorCode | None:
    """Return the error code of a transport's exception; None if it is not one of httpx's. That is a fault then."""
    for kind, name in _TYPES:
        if isinstance(failed, kind):
            return within(name, phase)
    return None

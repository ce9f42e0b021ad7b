"""Failures as transports of httpx name them, and as wasi-http does: each way is one table."""

import httpx2 as httpx

from hostfuncs.outbound.errors import ErrorCode, OutboundError, Phase, within

# The classes of httpx that a failed request raises, so that what is written for httpx (retries, for example) fits.
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

# One row per exception type; the first that fits counts, so the special stand before the general.
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
    """Make the exception of httpx for a failed request. To be raised from `error`, which has the error code."""
    name = error.code.name
    kind = _CLASSES.get(name)
    if kind is None:
        kind = httpx.RemoteProtocolError if name.startswith("HTTP-response") else httpx.LocalProtocolError
    return kind(str(error), request=request)


def cause_of(failed: BaseException) -> OutboundError | None:
    """Find what the inner transport said, in the causes of an exception that came out of a transport around it."""
    seen: set[int] = set()
    cause: BaseException | None = failed
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, OutboundError):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__
    return None


def code_of(failed: BaseException, phase: Phase) -> ErrorCode | None:
    """Name what a transport raised; None for what httpx does not know, which is a fault of the transport."""
    for kind, name in _TYPES:
        if isinstance(failed, kind):
            return within(name, phase)
    return None

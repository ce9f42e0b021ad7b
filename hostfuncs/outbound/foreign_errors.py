"""What the failures of httpcore2 and h2 are called; the part of `errors` that needs them loaded."""

import h2.events
import h2.exceptions
import h11
import httpcore2

from hostfuncs.outbound import errors
from hostfuncs.outbound.errors import ErrorCode, Phase, within

# One row per exception type; the first that fits counts, so the special stand before the general.
_TYPES: tuple[tuple[type[BaseException], str], ...] = (
    (httpcore2.PoolTimeout, "connection-limit-reached"),
    (httpcore2.ConnectTimeout, "connection-timeout"),
    (httpcore2.TimeoutException, "connection-read-timeout"),
    (httpcore2.ProxyError, "destination-unavailable"),
    (httpcore2.ConnectError, "destination-unavailable"),
    (httpcore2.NetworkError, "connection-terminated"),
    (httpcore2.ProtocolError, "HTTP-protocol-error"),
    (h2.exceptions.H2Error, "HTTP-protocol-error"),
)


def code_of(failure: BaseException, phase: Phase) -> ErrorCode:
    """See `errors.code_of`."""
    if isinstance(failure, (httpcore2.NetworkError, httpcore2.ProtocolError)) and failure.args:
        # What happened is their argument: an exception (through a proxy), or the event that ended an HTTP/2 stream.
        wrapped = failure.args[0]
        if isinstance(wrapped, (OSError, h11.RemoteProtocolError)):
            return errors.code_of(wrapped, phase)
        if isinstance(wrapped, h2.events.ConnectionTerminated):
            return within("connection-terminated", phase)
        if isinstance(wrapped, h2.events.StreamReset) and phase is Phase.BODY:
            return ErrorCode("HTTP-response-incomplete")
    for kind, name in _TYPES:
        if isinstance(failure, kind):
            return within(name, phase)
    return ErrorCode("internal-error", type(failure).__name__)

"""Errors over gRPC: the status, and its details as Dapr sends them (google.rpc.Status in `grpc-status-details-bin`)."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from sandboxd.front.answering.failures import Failure
from sandboxd.front.grpc.proto.status_pb2 import DebugInfo, Detail, Duration, ErrorInfo, RetryInfo, Status

DOMAIN: Final = "dapr.io"
_TYPES: Final = "type.googleapis.com/google.rpc."

UNDECODABLE: Final = "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"

Metadata = tuple[tuple[str, str | bytes], ...]
"""A call's headers, as they came."""
_TEXT_MAX: Final = 2048
"""The longest text of a status on the wire. A message is sent twice and a detail once, two of these in base64. grpcio's
clients refuse answers with more than 8 KiB of metadata."""

Trailers = tuple[tuple[str, str | bytes], ...]


class Code(IntEnum):
    """The codes of gRPC's statuses. Source: google/rpc/code.proto."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """The call is answered with an error.

    Parameters:
        code: of the status.
        message: of the status.
        reason: of the ErrorInfo; empty sends no details.
        metadata: of the ErrorInfo.
        detail: what is told beside the message, as a DebugInfo.
        retry_after_s: when to try again, as a RetryInfo; 0 sends none. Seconds.
        traceparent: sent as trailing metadata; empty sends none.
        http_status: of the HTTP/2 response; 200 for all that is a gRPC call.
        accepts: sent as grpc-accept-encoding; empty sends none.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        detail: str = "",
        retry_after_s: int = 0,
        traceparent: str = "",
        http_status: int = 200,
        accepts: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = _sendable(message)
        self._reason = reason
        self._metadata = metadata or {}
        self._detail = _sendable(detail)
        self._retry_after_s = retry_after_s
        self._traceparent = traceparent
        self.http_status = http_status
        self._accepts = accepts

    @classmethod
    def of(cls, failed: Failure, *, debug: bool = False) -> "GrpcError":
        """The error for a binding request that failed.

        Parameters:
            failed: why.
            debug: whether the caller wants its detail and its traceparent, which Dapr has not.
        """
        return cls(
            Code[failed.grpc],
            failed.message,
            reason="" if failed.grpc == "DEADLINE_EXCEEDED" else failed.code,
            detail=failed.detail if debug else "",
            retry_after_s=failed.retry_after_s,
            traceparent=failed.span if debug else "",
        )

    def trailers(self) -> Trailers:
        """The trailing metadata."""
        trace: Trailers = (("traceparent", self._traceparent),) if self._traceparent else ()
        if self._accepts:
            trace = (*trace, ("grpc-accept-encoding", self._accepts))
        if not self._reason:
            return trace
        details = [_detail(ErrorInfo(reason=self._reason, domain=DOMAIN, metadata=self._metadata))]
        if self._retry_after_s:
            details.append(_detail(RetryInfo(retry_delay=Duration(seconds=self._retry_after_s))))
        if self._detail:
            details.append(_detail(DebugInfo(detail=self._detail)))
        status = Status(code=self.code.value, message=self.message, details=details)
        return (*trace, ("grpc-status-details-bin", status.SerializeToString()))


def _detail(message: Any) -> Detail:
    return Detail(type_url=_TYPES + message.DESCRIPTOR.name, value=message.SerializeToString())


def _sendable(text: str) -> str:
    """Return a text, or as much of its beginning as the wire has room for. Guests choose parts of it.

    `grpc-message` is percent-encoded: three bytes stand for each byte of UTF-8 that is no printable ASCII character.
    """
    size = 0
    for at, character in enumerate(text):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode("utf-8", "replace"))
        if size > _TEXT_MAX:
            return f"{text[:at]}..."
    return text

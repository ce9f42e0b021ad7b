"""Errors over gRPC: the status, and its details as Dapr sends them (google.rpc.Status in `grpc-status-details-bin`)."""

from collections.abc import Mapping
from typing import Any, Final

import grpc

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
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        detail: str = "",
        retry_after_s: int = 0,
        traceparent: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = _sendable(message)
        self._reason = reason
        self._metadata = metadata or {}
        self._detail = _sendable(detail)
        self._retry_after_s = retry_after_s
        self._traceparent = traceparent

    @classmethod
    def of(cls, failed: Failure, *, debug: bool = False) -> "GrpcError":
        """The error for a binding request that failed.

        Parameters:
            failed: why.
            debug: whether the caller wants its detail and its traceparent, which Dapr has not.
        """
        return cls(
            grpc.StatusCode[failed.grpc],
            failed.message,
            reason="" if failed.grpc == "DEADLINE_EXCEEDED" else failed.code,
            detail=failed.detail if debug else "",
            retry_after_s=failed.retry_after_s,
            traceparent=failed.span if debug else "",
        )

    def trailers(self) -> Trailers:
        """The trailing metadata."""
        trace = (("traceparent", self._traceparent),) if self._traceparent else ()
        if not self._reason:
            return trace
        details = [_detail(ErrorInfo(reason=self._reason, domain=DOMAIN, metadata=self._metadata))]
        if self._retry_after_s:
            details.append(_detail(RetryInfo(retry_delay=Duration(seconds=self._retry_after_s))))
        if self._detail:
            details.append(_detail(DebugInfo(detail=self._detail)))
        status = Status(code=self.code.value[0], message=self.message, details=details)
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

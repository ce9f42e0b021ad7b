"""The response of a `wasi:http/incoming-handler` guest."""

from __future__ import annotations

from dataclasses import dataclass

from hostfuncs import texts
from hostfuncs.outbound import OutboundError
from hostfuncs.outbound.fields import content_length
from hostfuncs.outcome import Outcome
from hostfuncs.running.endings import COMPLETED, Ending
from hostfuncs.wasip2 import Collected

_UNANSWERED = "the guest never called response-outparam.set"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers of a response."""

    status: int
    """200 to 599."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """In the order in which the guest set them."""


class ResponseRecorder:
    """The state that all responders have: the head, whether the body is complete, and the failure."""

    def __init__(self) -> None:
        self._head: ResponseHead | None = None
        self._failure = ""
        self.finished = False

    def __repr__(self) -> str:
        status = self._head and self._head.status
        return f"<{type(self).__name__} {status} finished={self.finished} {self._failure!r}>"

    def head(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Record the head.

        See Responder. Of several equal Content-Length fields only the first is kept (RFC 9110, 8.6).
        """
        try:
            if content_length(headers) is not None:
                headers = _with_one_length(headers)
        except OutboundError:
            self.abort("its Content-Length is not a number")
        self._head = ResponseHead(status, headers)
        if not 200 <= status <= 599:
            self._failure = self._failure or f"the guest answered with status {status}, which ends no request"

    def refuse(self, code: str) -> None:
        """Record an error code in place of a response. See Responder."""
        self._failure = texts.bounded(f"the guest answered with the error {code}")

    def finish(self) -> None:
        """Record that the body is complete. See Responder."""
        self.finished = True

    def abort(self, why: str) -> None:
        """Record that the body will never be complete. See Responder."""
        self._failure = self._failure or texts.bounded(f"incomplete response: {why}")

    def has_failed(self) -> bool:
        """Return whether it is certain that there will be no usable response."""
        return bool(self._failure)

    def conclude(self) -> Ending:
        """Return how the run ended, after the guest's handler has returned.

        A body that the guest neither finished nor dropped is complete now, as in wasmtime. JavaScript handlers that
        throw respond in this way. A subclass compares the body with the length that the head announced.
        """
        if not self._failure:
            if self._head is None:
                self._failure = _UNANSWERED
            self.finished = True
        return Ending(Outcome.TRAPPED, message=self._failure) if self._failure else COMPLETED

    @property
    def complete_head(self) -> ResponseHead | None:
        """The head of a complete response; None if there is none."""
        return self._head if self.finished and not self._failure else None


class CollectedResponse(ResponseRecorder):
    """A `hostfuncs.wasip2.Responder` that keeps the whole response.

    Parameters:
        body: the sink of the response's body.
    """

    def __init__(self, body: Collected) -> None:
        super().__init__()
        self.body = body

    def conclude(self) -> Ending:
        """Return how the run ended. A body that was not finished is compared with its Content-Length here.

        A body that was finished has been compared already.
        """
        if self._head is not None and not self.finished and not self.has_failed():
            expected = content_length(self._head.headers)
            if expected is not None and expected != self.body.total:
                self.abort(f"{self.body.total} bytes of a body of {expected}")
        return super().conclude()


def _with_one_length(headers: tuple[tuple[bytes, bytes], ...]) -> tuple[tuple[bytes, bytes], ...]:
    first = next(line for line in headers if line[0].lower() == b"content-length")
    return tuple(line for line in headers if line is first or line[0].lower() != b"content-length")

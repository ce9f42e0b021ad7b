"""The answer of a `wasi:http/incoming-handler` guest, kept until it is complete."""

from __future__ import annotations

from hostfuncs.wasip2 import Collected
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import HttpResponse

UNANSWERED = "the guest never called response-outparam.set"


class CollectedResponse:
    """A `hostfuncs.wasip2.Responder` that keeps everything.

    Parameters:
        body: takes the response's body.
    """

    def __init__(self, body: Collected) -> None:
        self.body = body
        self._head: HttpResponse | None = None
        self._failure = ""
        self._finished = False

    def __repr__(self) -> str:
        return f"<CollectedResponse {self._head and self._head.status} finished={self._finished} {self._failure!r}>"

    def head(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """See Responder."""
        self._head = HttpResponse(status=status, headers=headers)

    def refuse(self, code: str) -> None:
        """See Responder."""
        self._failure = f"the guest answered with the error {code}"

    def finish(self) -> None:
        """See Responder."""
        self._finished = True

    def abort(self, why: str) -> None:
        """See Responder."""
        self._failure = self._failure or f"incomplete response: {why}"

    def outcome(self) -> tuple[Outcome, int, str, HttpResponse | None]:
        """Outcome, exit code, text and head of a guest that has returned."""
        if self._failure:
            return Outcome.TRAPPED, 0, self._failure, None
        head = self._head
        if head is None:
            return Outcome.TRAPPED, 0, UNANSWERED, None
        if not 200 <= head.status <= 599:
            return Outcome.TRAPPED, 0, f"the guest answered with status {head.status}, which ends no request", None
        if not self._finished:
            return Outcome.TRAPPED, 0, "incomplete response: the guest returned without finishing its body", None
        return Outcome.COMPLETED, 0, "", head

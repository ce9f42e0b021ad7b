"""The answer of a `wasi:http/incoming-handler` guest."""

from __future__ import annotations

from hostfuncs.wasip2 import Collected
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import HttpResponse

UNANSWERED = "the guest never called response-outparam.set"


class ResponseKeeper:
    """What every `hostfuncs.wasip2.Responder` here remembers: the head, whether the body is complete, what failed."""

    def __init__(self) -> None:
        self._head: HttpResponse | None = None
        self._failure = ""
        self.finished = False

    def __repr__(self) -> str:
        status = self._head and self._head.status
        return f"<{type(self).__name__} {status} finished={self.finished} {self._failure!r}>"

    def head(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """See Responder."""
        self._head = HttpResponse(status=status, headers=headers)
        if not 200 <= status <= 599:
            self._failure = self._failure or f"the guest answered with status {status}, which ends no request"

    def refuse(self, code: str) -> None:
        """See Responder."""
        self._failure = f"the guest answered with the error {code}"

    def finish(self) -> None:
        """See Responder."""
        self.finished = True

    def abort(self, why: str) -> None:
        """See Responder."""
        self._failure = self._failure or f"incomplete response: {why}"

    def unfit(self) -> bool:
        """Whether this will be no answer, whatever follows."""
        return bool(self._failure)

    def outcome(self) -> tuple[Outcome, int, str, HttpResponse | None]:
        """Outcome, exit code, text and head of a guest that has returned."""
        if not self._failure:
            if self._head is None:
                self._failure = UNANSWERED
            elif not self.finished:
                self._failure = "incomplete response: the guest returned without finishing its body"
        if self._failure:
            return Outcome.TRAPPED, 0, self._failure, None
        return Outcome.COMPLETED, 0, "", self._head


class CollectedResponse(ResponseKeeper):
    """A `hostfuncs.wasip2.Responder` that keeps everything.

    Parameters:
        body: takes the response's body.
    """

    def __init__(self, body: Collected) -> None:
        super().__init__()
        self.body = body

"""Requests that are answered with an error, over every protocol: the exception, and which error has which answer."""

from typing import Final, NamedTuple

from hostfuncs import texts
from sandboxd import gojson
from sandboxd.front.answering.outcomes import (
    INVOKE,
    TABLE,
    failure,
    refusal,
    result_detail,
    result_hints,
    result_message,
)
from sandboxd.front.ports import Headers, Served
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable, Rejected
from sandboxd.wire.messages import Result

_SURELY_SHORT: Final = texts.MAX_BYTES // 4
"""A text of so many characters needs no cut, whatever they are."""
_JSON: Final = (b"content-type", b"application/json")
_NO_SUCH_BINDING: Final = (
    "GET /v1.0/metadata lists those that are served; scopes, namespace or direction of a component may leave it out"
)


class Failure(Exception):  # noqa: N818 - an answer on its way out, not an error of the program
    """The request is answered with an error. What is not given comes from the outcome's row of the table.

    Parameters:
        outcome: for metrics and the log.
        message: of the answer.
        http: the request came under /v1.0/http/, where statuses are those of a gateway.
        status: of the answer.
        grpc: name of the answer's gRPC status.
        code: errorCode of the answer.
        detail: what is told beside the message.
        logged: the reason as the log has it, where message and detail tell what a caller or a guest wrote.
        retry_after_s: Retry-After, in seconds; 0 sends none.
        counted: an aggregated line of the log covers it already.
        stderr: the end of what the guest wrote there.
    """

    def __init__(
        self,
        outcome: Outcome,
        message: str,
        *,
        http: bool = False,
        status: int = 0,
        grpc: str = "",
        code: str = "",
        detail: str = "",
        logged: str = "",
        retry_after_s: int = 0,
        counted: bool = False,
        stderr: bytes = b"",
    ) -> None:
        super().__init__(message)
        row = TABLE[outcome]
        self.outcome = outcome
        self.status = status or (row.http if http else row.status)
        self.grpc = grpc or row.grpc
        self.code = code or row.code or INVOKE
        self.message = message
        self.detail = detail
        self._logged = logged
        self.retry_after_s = retry_after_s
        self.counted = counted
        self.stderr = stderr
        self._encoded = b""
        """The body of an answer over HTTP, if it is known already."""
        self.span = ""
        """traceparent of the request, once it is known."""

    def reason(self) -> str:
        """Return what the log says of it."""
        text = self._logged or (f"{self.message}; {self.detail}" if self.detail else self.message)
        return texts.bounded(text) if len(text) > _SURELY_SHORT else text

    def body(self) -> bytes:
        """Return the body of an answer over HTTP."""
        return self._encoded or gojson.error_body(self.code, self.message, self.detail)

    def headers(self, body: bytes, trace: bytes) -> Headers:
        """Return the headers of an answer over HTTP.

        Parameters:
            body: of the answer.
            trace: its traceparent.
        """
        headers = [_JSON, (b"content-length", b"%d" % len(body)), (b"traceparent", trace)]
        if self.retry_after_s:
            headers.append((b"retry-after", b"%d" % self.retry_after_s))
        return headers


class CallerGone(Exception):  # noqa: N818 - likewise
    """The caller hung up: nobody waits for the answer."""


def of_error(error: Exception, name: str, *, http: bool = False) -> Failure:
    """Return the answer for an invocation that raised.

    Parameters:
        error: what `Invoker.invoke` raised. All but `Rejected` and `BindingUnavailable` is a bug of the server, whose
            text no caller is told.
        name: of the binding.
        http: see `Failure`.
    """
    if isinstance(error, Rejected):
        return of_refusal(error, name, http=http)
    if isinstance(error, BindingUnavailable):
        return of_unavailable(error, name, http=http)
    return Failure(Outcome.HOST_FAILED, failure(name, TABLE[Outcome.HOST_FAILED].message, http=http), http=http)


def of_refusal(rejected: Rejected, name: str, *, http: bool = False, counted: bool = False) -> Failure:
    """Return the answer for an invocation that got no worker. Parameters as of `of_error` and `Failure`."""
    text = failure(name, refusal(rejected), http=http)
    return Failure(Outcome.REJECTED, text, http=http, retry_after_s=rejected.retry_after_s, counted=counted)


def of_unavailable(unavailable: BindingUnavailable, name: str, *, http: bool = False) -> Failure:
    """Return the answer for a binding that cannot run. Parameters as of `of_error`.

    A binding that is loading may be tried again; one that failed to load is, as in Dapr, not there.
    """
    if unavailable.loading:
        text = f"binding {name} is still loading"
        return Failure(Outcome.REJECTED, text if http else failure(name, text), http=http, retry_after_s=1)
    return not_found(name, http=http, detail=unavailable.why)


def not_found(name: str, *, http: bool = False, detail: str = "") -> Failure:
    """Return the answer for a binding that does not exist. Parameters as of `of_error` and `Failure`."""
    text = f"couldn't find output binding {name}"
    text = text if http else failure(name, text)
    # The message is Dapr's, and says nothing of what to do.
    hint = detail or _NO_SUCH_BINDING
    return Failure(Outcome.NOT_FOUND, text, http=http, detail=hint, logged="" if detail else text)


class Remembered(NamedTuple):
    """The answer for a guest that failed, around the number of its invocation if that is told."""

    message: tuple[str, ...]
    detail: str
    hints: str
    """What the log has after the message."""
    encoded: tuple[bytes, ...]
    """The body of the answer over HTTP."""

    def failure(self, result: Result, number: int, *, http: bool) -> Failure:
        """Return the answer for one invocation. Parameters as of `of_result`."""
        if len(self.message) == 1:
            text, body = self.message[0], self.encoded[0]
        else:
            text = f"{self.message[0]}{number}{self.message[1]}"
            body = b"%b%d%b" % (self.encoded[0], number, self.encoded[1])
        logged = text + self.hints
        failed = Failure(result.outcome, text, http=http, detail=self.detail, logged=logged, stderr=result.stderr)
        failed._encoded = body
        return failed


REMEMBERED_MAX: Final = 8
"""The most answers that are remembered for a binding. Its guest chooses what it writes and where it traps."""
_REMEMBERED_CHARACTERS: Final = 1024
"""The longest message, stdout and stderr of those that are."""


def of_result(result: Result, served: Served, number: int, *, http: bool = False) -> Failure:
    """Return the answer for a guest that ran and failed.

    Parameters:
        result: how it ended; not COMPLETED.
        served: its binding.
        number: of the invocation among the binding's.
        http: see `Failure`.
    """
    stdout, stderr = result.stdout, result.stderr
    short = not result.outbound and len(stdout) <= _REMEMBERED_CHARACTERS and len(stderr) <= _REMEMBERED_CHARACTERS
    # Guests that fail often do so mostly alike, and an answer takes long to put together.
    alike = (result.outcome, result.exit_code, result.detail, result.trace, stdout, stderr, result.stderr_total, http)
    if short:
        known: Remembered | None = served.failures.get(alike)
        if known is not None:
            return known.failure(result, number, http=http)
    reason = result_message(result, served.argv0, served.binding.limits)
    message = (failure(served.binding.name, reason[0], http=http), *reason[1:])
    detail = ""
    hints: list[str] = []
    if result.detail or stderr or stdout or result.outbound:
        hints = result_hints(result, "".join(reason), mounts=bool(served.binding.mounts or served.binding.tmp))
        detail = result_detail(result, hints, program=served.is_program)
    if not short or sum(map(len, message)) > _REMEMBERED_CHARACTERS:
        text = str(number).join(message)
        logged = "; ".join((text, *hints))
        return Failure(result.outcome, text, http=http, detail=detail, logged=logged, stderr=stderr)
    code = TABLE[result.outcome].code or INVOKE
    logged = "".join(f"; {hint}" for hint in hints)
    known = Remembered(message, detail, logged, gojson.error_parts(code, message, detail))
    if len(served.failures) >= REMEMBERED_MAX:
        served.failures.clear()
    served.failures[alike] = known
    return known.failure(result, number, http=http)

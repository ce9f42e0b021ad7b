"""The orders in which wasi:http lets a guest act on an outgoing message, as a table.

A case is a line of steps of `tests/guests/component/walk.py`, separated by commas. `=` and what the step answers follow
where that is not nothing: a value, an error, `trap` (the guest is ended there) or `hang` (it waits until its deadline).

All expectations are those of wasmtime 49.0.3 (`wasmtime run -S http`, `wasmtime serve`), found by running it. Where
sandboxd differs on purpose the case has a `differs`, which says why; such a case holds sandboxd's own behaviour, and
wasmtime's stands in the reason.
"""

import json
from dataclasses import dataclass

_ENDS = {"trap": "trapped", "hang": "deadline_exceeded"}


def told_lines(output: bytes) -> tuple[str, ...]:
    """Return what a walk printed, as steps are written here; a step that began and did not end is `=...`."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith(b"[")]
    told = [_told(*line) for line in lines if len(line) == 2]
    if lines and len(lines[-1]) == 1:
        told.append(f"{lines[-1][0]}=...")
    return tuple(told)


def _told(step: str, answer: object) -> str:
    return step if answer is None else f"{step}={json.dumps(answer).strip(chr(34))}"


class _Walk:
    line: str

    def __str__(self) -> str:
        return self.line

    @property
    def _parts(self) -> list[str]:
        return [part.strip() for part in self.line.split(",")]

    @property
    def steps(self) -> tuple[str, ...]:
        """The steps that the guest does."""
        return tuple(part.partition("=")[0] for part in self._parts)

    @property
    def told(self) -> tuple[str, ...]:
        """The lines that it prints, as `told_lines` returns them."""
        return tuple(part.partition("=")[0] + "=..." if self._end(part) else part for part in self._parts)

    @property
    def outcome(self) -> str:
        """The outcome of the invocation."""
        return next((end for part in self._parts if (end := self._end(part))), "completed")

    @property
    def hangs(self) -> bool:
        """It waits until its deadline."""
        return self.outcome == _ENDS["hang"]

    @staticmethod
    def _end(part: str) -> str:
        return _ENDS.get(part.partition("=")[2], "")


@dataclass(frozen=True)
class RequestCase(_Walk):
    """One walk with a request.

    Attributes:
        line: the steps.
        arrives: size of the body of the request that the origin got whole; None if none did.
        method, path: of the request; the path is one of `tests.origins`.
        differs: why sandboxd does not do as wasmtime does.
    """

    line: str
    arrives: int | None
    method: str = "POST"
    path: str = "/echo"
    differs: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.line}"


_CUT = "wasmtime sends a body cut to its Content-Length; nobody should take that for what the guest meant"
_GET = "wasmtime sends no body with a GET, whatever was written; some APIs want one"

REQUESTS = (
    # the body before `handle`, after it, and on both sides
    RequestCase("body, write, put 5, drop-stream, finish, handle, wait=200", 5),
    RequestCase("body, write, fill 5=5, flush, blocking-flush, drop-stream, finish, handle, wait=200", 5),
    RequestCase("body, write, put 5, handle, put 3, drop-stream, finish, wait=200", 8),
    RequestCase("body, write, put 5, drop-stream, handle, finish, wait=200", 5),
    RequestCase("body, write, handle, put 5, flush, blocking-flush, drop-stream, finish, wait=200", 5),
    RequestCase("body, handle, write, put 5, drop-stream, finish, wait=200", 5),
    RequestCase("body, handle, wait=200, write, put 5, drop-stream, finish, read=5", 5, path="/duplex"),
    RequestCase("body, handle, finish, wait=200", 0),
    RequestCase("body, finish, handle, wait=200", 0),
    RequestCase("handle, wait=200", 0),
    # methods that need no body
    RequestCase("body, finish, handle, wait=200", 0, "GET"),
    RequestCase("body, handle, finish, wait=200", 0, "GET"),
    RequestCase("body, handle, wait=200, finish", 0, "GET"),
    RequestCase("body, handle, wait=200, finish", 0, "HEAD", "/head-only"),
    RequestCase("body, drop-body, handle, wait=200", 0, "GET"),
    RequestCase("body, write, drop-stream, finish, handle, wait=200", 0, "GET"),
    RequestCase("body, write, put 0, flush, drop-stream, finish, handle, wait=200", 0, "GET"),
    RequestCase("body, write, handle, wait=200, drop-stream, finish", 0, "GET"),
    RequestCase("body, handle, wait=200, write, put 5=closed, drop-stream, finish", 0, "GET"),
    RequestCase("body, finish-trailers, handle, wait=200", 0, "GET"),
    RequestCase("length 5, body, write, put 5, drop-stream, finish, handle, wait=200", 5, "GET"),
    RequestCase("body, write, put 5, drop-stream, finish, handle, wait=200", 5, "GET", differs=_GET),
    RequestCase("body, finish, handle, wait=200", 0, "DELETE"),
    RequestCase("handle, wait=200", 0, "DELETE"),
    RequestCase("body, write, put 5, drop-stream, finish, handle, wait=200", 5, "DELETE"),
    RequestCase("body, write, put 5, drop-stream, finish, handle, wait=200", 5, "PUT"),
    # things that are there once, and things that must end in order
    RequestCase("body, body=refused", None),
    RequestCase("body, write, write=refused", None),
    RequestCase("body, write, drop-stream, write=refused", None),
    RequestCase("body, write, put 5, finish=trap", None),
    RequestCase("body, write, put 5, drop-body=trap", None),
    # a body that is dropped is given up; one that is complete by its Content-Length cannot be
    RequestCase("body, drop-body, handle, wait=HttpProtocolError", None),
    RequestCase("body, handle, drop-body, wait=HttpProtocolError", None),
    RequestCase("body, write, put 5, drop-stream, drop-body, handle, wait=HttpProtocolError", None),
    RequestCase("body, write, put 5, drop-stream, handle, drop-body, wait=HttpProtocolError", None),
    RequestCase("length 5, body, write, put 5, drop-stream, drop-body, handle, wait=200", 5),
    RequestCase("length 0, body, drop-body, handle, wait=200", 0),
    # neither finished nor dropped: not over, unless its Content-Length says so
    RequestCase("body, write, put 5, handle, wait=hang", None),
    RequestCase("length 5, body, write, put 5, handle, wait=200, drop-stream, finish", 5),
    RequestCase("length 5, body, write, put 5, drop-stream, handle, wait=200", 5),
    RequestCase("length 0, body, handle, wait=200, finish", 0),
    # Content-Length
    RequestCase("length 5, body, write, put 5, drop-stream, finish, handle, wait=200", 5),
    RequestCase("length 5, body, write, put 5, handle, drop-stream, finish, wait=200", 5),
    RequestCase("length 5, body, handle, write, put 5, drop-stream, finish, wait=200", 5),
    RequestCase("length 0, body, finish, handle, wait=200", 0),
    RequestCase(
        "length 5, body, write, put 3, drop-stream, finish=HttpRequestBodySize, handle, wait=HttpRequestBodySize",
        None,
        differs="wasmtime fails the request with HTTP-protocol-error; the same code twice says what was wrong",
    ),
    RequestCase(
        "length 5, body, finish=HttpRequestBodySize, handle, wait=HttpRequestBodySize",
        None,
        differs="as above",
    ),
    RequestCase(
        "length 5, body, write, put 8=failed: HttpRequestBodySize, drop-stream, finish=HttpRequestBodySize, "
        "handle, wait=HttpRequestBodySize",
        None,
        differs=_CUT,
    ),
    RequestCase(
        "length 5, body, write, put 8=failed: HttpRequestBodySize, drop-stream, handle, finish=HttpRequestBodySize, "
        "wait=HttpRequestBodySize",
        None,
        differs=_CUT,
    ),
    # trailers
    RequestCase("body, write, put 5, drop-stream, finish-trailers, handle, wait=200", 5),
    RequestCase("body, finish-trailers, handle, wait=200", 0),
    RequestCase("body, handle, finish-trailers, wait=200", 0),
    RequestCase("length 5, body, write, put 5, drop-stream, finish-trailers, handle, wait=200", 5),
    # nobody wants it any more
    RequestCase("body, write, put 5, drop-request, put 3=closed, drop-stream, finish", None),
    RequestCase("body, drop-request, write, put 3=closed, check=closed, drop-stream, finish", None),
    RequestCase("body, write, drop-request, drop-stream, finish", None),
    RequestCase(
        "body, write, handle, drop-future, put 5=closed, put 5=closed, drop-stream, finish",
        None,
        differs="in wasmtime the request ends on another thread, so that the first writes may still be taken",
    ),
    # more than the host keeps before the request is sent
    RequestCase(
        "body, write, fill-up=1048576, drop-stream, finish, handle, wait=200",
        1 << 20,
        differs="wasmtime keeps two writes of any size",
    ),
    RequestCase(
        "body, write, fill-up=1048576, put 1=failed: InternalError, put 1=closed, drop-stream, "
        "finish, handle, wait=InternalError",
        None,
        differs="wasmtime waits for ever",
    ),
    RequestCase(
        "body, write, fill-up=1048576, block, check=failed: InternalError, drop-stream, finish, handle, "
        "wait=InternalError",
        None,
        differs="wasmtime waits for ever",
    ),
    RequestCase(
        "body, write, fill-up=1048576, flush, blocking-flush, handle, put 5, drop-stream, finish, wait=200",
        (1 << 20) + 5,
        differs="wasmtime keeps two writes of any size",
    ),
)


@dataclass(frozen=True)
class ResponseCase(_Walk):
    """One walk with a response.

    Attributes:
        line: the steps.
        size: of the body of the response the caller got whole; None if it got none.
        differs: why sandboxd does not do as wasmtime does.
    """

    line: str
    size: int | None
    differs: str = ""

    @property
    def query(self) -> str:
        """The steps as the guest reads them in its path."""
        return ",".join(self.steps).replace(" ", "+")


_TRAPS = "wasmtime ends the body as if it were complete; a caller should not take the output of a crash for an answer"

RESPONSES = (
    # the body before `set`, after it, and on both sides
    ResponseCase("set", 0),
    ResponseCase("body, set, write, put 5, drop-stream, finish", 5),
    ResponseCase("body, write, put 5, drop-stream, finish, set", 5),
    ResponseCase("body, write, fill 5=5, flush, blocking-flush, drop-stream, finish, set", 5),
    ResponseCase("body, write, put 5, set, put 3, drop-stream, finish", 8),
    ResponseCase("body, write, put 5, drop-stream, set, finish", 5),
    # neither finished nor dropped: complete when the guest returns
    ResponseCase("body, set", 0),
    ResponseCase("body, set, write", 0),
    ResponseCase("body, set, write, put 5", 5),
    ResponseCase("body, set, write, put 5, drop-stream", 5),
    ResponseCase("body, write, put 5, set", 5),
    ResponseCase("body, write, put 5, drop-stream, set", 5),
    ResponseCase("length 5, body, set, write, put 5", 5),
    ResponseCase("length 5, body, set, write, put 5, drop-stream", 5),
    ResponseCase("length 0, body, set", 0),
    # dropped: given up, unless it is complete by its Content-Length
    ResponseCase("body, set, drop-body", None),
    ResponseCase("body, set, write, put 5, drop-stream, drop-body", None),
    ResponseCase("body, drop-body, set", None),
    ResponseCase("body, write, put 5, drop-stream, drop-body, set", None),
    ResponseCase("length 5, body, set, write, put 5, drop-stream, drop-body", 5),
    ResponseCase("length 5, body, set, write, put 3, drop-stream, drop-body", None),
    # Content-Length
    ResponseCase("length 5, body, set, write, put 5, drop-stream, finish", 5),
    ResponseCase("length 5, body, write, put 5, drop-stream, finish, set", 5),
    ResponseCase("length 0, body, set, finish", 0),
    ResponseCase("length 5, body, set", None),
    ResponseCase("length 5, body, set, write, put 3, drop-stream", None),
    ResponseCase("length 5, body, set, finish=HttpResponseBodySize", None),
    ResponseCase("length 5, body, set, write, put 3, drop-stream, finish=HttpResponseBodySize", None),
    ResponseCase("length 5, body, write, put 3, drop-stream, finish=HttpResponseBodySize, set", None),
    ResponseCase(
        "length 5, body, write, put 8=failed: HttpResponseBodySize, drop-stream, finish=HttpResponseBodySize, set",
        None,
        differs=_CUT,
    ),
    ResponseCase("length 5, set", 0),
    # trailers, which HTTP/1.1 callers get from neither
    ResponseCase("body, set, finish-trailers", 0),
    ResponseCase("body, set, write, put 5, drop-stream, finish-trailers", 5),
    # things that are there once, things that must end in order, guests that do not answer
    ResponseCase("body, body=refused", None),
    ResponseCase("body, write, write=refused", None),
    ResponseCase("body, finish", None),
    ResponseCase("body, write, put 5, finish=trap", None),
    ResponseCase("throw=trap", None),
    ResponseCase("body, set, write, put 5, finish=trap", None, differs=_TRAPS),
    ResponseCase("body, set, write, put 5, drop-body=trap", None, differs=_TRAPS),
    ResponseCase("body, set, throw=trap", None, differs=_TRAPS),
    ResponseCase("body, set, write, put 5, throw=trap", None, differs=_TRAPS),
    ResponseCase("body, set, write, put 5, drop-stream, finish, throw=trap", None, differs=_TRAPS),
)

KEPT_RESPONSES = (
    # more than the host keeps of a streamed response before it is set; wasmtime waits for ever
    ResponseCase("body, write, fill-up=1048576, drop-stream, finish, set", 1 << 20),
    ResponseCase("body, write, fill-up=1048576, put 1=failed: InternalError, drop-stream, finish, set", None),
    ResponseCase("body, write, fill-up=1048576, block, check=failed: InternalError, set", None),
    ResponseCase("body, write, fill-up=1048576, flush, blocking-flush, set, put 5", (1 << 20) + 5),
)

"""Answers and logs a binding request that failed."""

import time
from typing import Final

from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.runlog import log_failed_request
from sandboxd.front.http.bodies import CLOSE
from sandboxd.front.http.replies import Laid, Reply
from sandboxd.front.ports import Scope, Send, Served

_LINES: Final = b"content-type: application/json\r\ncontent-length: %d\r\ntraceparent: %b\r\n"
"""The lines of `Failure.headers` where a guest has failed."""


def failure_reply(failed: Failure, served: Served | None, span: str, began_ns: int, *, http1: bool) -> Reply:
    """Log a failed request and return its answer.

    Parameters:
        failed: why it failed.
        served: the binding; None if there is none of that name.
        span: traceparent of the request.
        began_ns: CLOCK_MONOTONIC instant at which it came.
        http1: whether it came over HTTP/1.
    """
    seconds = (time.monotonic_ns() - began_ns) * 1e-9
    log_failed_request(failed, served, span, status=failed.status, seconds=seconds)
    error = failed.body()
    headers = failed.headers(error, span.encode())
    if http1 and failed.status in (408, 413):
        headers.append(CLOSE)  # the rest of the body may still come
    return failed.status, headers, error


def failure_laid(failed: Failure, served: Served | None, span: str, began_ns: int) -> Laid:
    """Log a guest that ran and failed, and return the answer over HTTP/1.1. Parameters as of `failure_reply`."""
    seconds = (time.monotonic_ns() - began_ns) * 1e-9
    log_failed_request(failed, served, span, status=failed.status, seconds=seconds)
    body = failed.body()
    return failed.status, _LINES % (len(body), span.encode()), body


async def send_failure(
    failed: Failure, served: Served | None, span: str, began_ns: int, scope: Scope, send: Send
) -> None:
    """Log a failed request and answer it. Parameters as of `failure_reply`; `scope` and `send` are ASGI's."""
    http1 = scope["http_version"].startswith("1")
    status, headers, body = failure_reply(failed, served, span, began_ns, http1=http1)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

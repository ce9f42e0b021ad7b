"""Answers and logs a binding request that failed."""

import time

from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.runlog import log_failed_request
from sandboxd.front.http.bodies import CLOSE
from sandboxd.front.ports import Scope, Send, Served


async def send_failure(
    failed: Failure, served: Served | None, span: str, began_ns: int, scope: Scope, send: Send
) -> None:
    """Log a failed request and answer it.

    Parameters:
        failed: why it failed.
        served: the binding; None if there is none of that name.
        span: traceparent of the request.
        began_ns: CLOCK_MONOTONIC instant at which it came.
        scope: of the request.
        send: its ASGI send.
    """
    seconds = (time.monotonic_ns() - began_ns) * 1e-9
    log_failed_request(failed, served, span, status=failed.status, seconds=seconds)
    error = failed.body()
    headers = failed.headers(error, span.encode())
    if failed.status in (408, 413) and scope["http_version"].startswith("1"):
        headers.append(CLOSE)  # the rest of the body may still come
    await send({"type": "http.response.start", "status": failed.status, "headers": headers})
    await send({"type": "http.response.body", "body": error})

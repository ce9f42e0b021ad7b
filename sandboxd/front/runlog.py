"""What is logged of a guest's run, however it was asked for."""

import logging
import time

from sandboxd.front.ports import Served
from sandboxd.log import fields
from sandboxd.wire.messages import Result

log = logging.getLogger("sandboxd.request")


def log_stderr(served: Served, result: Result, span: str) -> None:
    """The end of what the guest wrote there.

    Parameters:
        span: traceparent of the request.
    """
    log.info(
        "guest wrote to stderr",
        extra=fields(
            binding=served.binding.name,
            request_id=span[36:52],
            trace_id=span[3:35],
            stderr_bytes=result.stderr_total,
            stderr=result.stderr.decode("utf-8", "replace"),
        ),
    )


def log_run(level: int, served: Served, result: Result, span: str, began_ns: int) -> None:
    """How it ran.

    Parameters:
        span: traceparent of the request.
        began_ns: CLOCK_MONOTONIC instant at which the request came.
    """
    log.log(
        level,
        "guest ran",
        extra=fields(
            binding=served.binding.name,
            outcome=result.outcome.value,
            request_id=span[36:52],
            trace_id=span[3:35],
            duration_ms=(time.monotonic_ns() - began_ns) / 1e6,
            queue_ms=result.queue_ns / 1e6,
            instantiate_ms=result.instantiate_ns / 1e6,
            guest_ms=result.guest_ns / 1e6,
            exit_code=result.exit_code,
            memory_bytes=result.memory_bytes,
            stdout_bytes=len(result.stdout),
            outbound_requests=len(result.outbound),
        ),
    )

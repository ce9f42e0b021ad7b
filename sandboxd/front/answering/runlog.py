"""The log lines about a guest's run, for both endpoints."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from hostfuncs import texts
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.outcomes import TABLE
from sandboxd.front.answering.sampling import Sampler
from sandboxd.front.ports import Served
from sandboxd.log import Budget, fields
from sandboxd.metrics import HTTP, BindingMetrics
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Result

log = logging.getLogger("sandboxd.request")

_STDERR = Budget("stderr of guests")
_REFUSALS = Budget("refused requests")
_FAILED = "failed requests"
_FAILURES = Budget(_FAILED)
_SAMPLED = Sampler(_FAILED)
in_full = _SAMPLED.in_full
"""Returns whether a failed request gets a line of its own; see `sampling`."""

REQUEST_FAILED: Final = "request failed"


def log_stderr(served: Served, result: Result, span: str) -> None:
    """Log the end of the guest's standard error, as far as it fits into a line.

    Parameters:
        span: traceparent of the request.
    """
    if _STDERR.spent(served.binding.name):
        return
    text = texts.ending(result.stderr)
    if not _STDERR.admits(served.binding.name, text):
        return
    log.info(
        "guest wrote to stderr",
        extra=fields(
            binding=served.binding.name,
            request_id=span[36:52],
            trace_id=span[3:35],
            stderr_bytes=result.stderr_total,
            stderr=text,
        ),
    )


def log_failure(outcome: Outcome, text: str, binding: str, values: Mapping[str, Any], reason: str) -> None:
    """Log a failed request that is to be logged (`in_full`), unless the binding's lines were too long.

    Parameters:
        outcome, binding: its kind.
        text: the line's message.
        values: the line's fields.
        reason: that of them whose length guests or callers choose.
    """
    if _FAILURES.admits(binding, reason):
        log.log(TABLE[outcome].level, text, extra=values)


def log_failed_request(failed: Failure, served: Served | None, span: str, *, status: int | str, seconds: float) -> None:
    """Log a binding request that is answered with an error, over whichever protocol.

    Parameters:
        failed: why it failed.
        served: the binding; None if there is none of that name.
        span: traceparent of the request.
        status: of the answer, as its protocol has it.
        seconds: since the request came.
    """
    binding = served.binding.name if served is not None else ""
    if failed.counted:
        log_refusal(span, status, failed.reason(), binding)
        return
    if not in_full(binding, failed.outcome, REQUEST_FAILED):
        return
    reason = failed.reason()
    values = fields(
        binding=binding,
        outcome=failed.outcome.value,
        request_id=span[36:52],
        trace_id=span[3:35],
        status=status,
        error_code=failed.code,
        duration_ms=seconds * 1e3,
        reason=reason,
    )
    log_failure(failed.outcome, REQUEST_FAILED, binding, values, reason)


def tell_counted() -> None:
    """Log how many failed requests were not logged in full. Call it when no more requests come."""
    _SAMPLED.tell()


def log_refusal(span: str, status: int | str, reason: str, binding: str = "") -> None:
    """Log a request that was refused before a guest was looked for, or while there was no room: at debug only.

    Whoever can connect can have as many of these as he likes. Other lines count them, or sum them up.

    Parameters:
        span: traceparent of the answer.
        status: of the answer.
        reason: why; may quote the request.
        binding: its name; empty if none was looked up.
    """
    if log.isEnabledFor(logging.DEBUG) and _REFUSALS.admits(binding, reason):
        log.debug(
            "request refused",
            extra=fields(
                binding=binding,
                request_id=span[36:52],
                trace_id=span[3:35],
                status=status,
                reason=texts.bounded(reason),
            ),
        )


def keep_failure(metrics: BindingMetrics, failed: Failure, span: str, began_ns: int, protocol: str = HTTP) -> None:
    """Keep a failure for those who look at the status, if it is served.

    Parameters:
        metrics: of the binding, or of requests that name none.
        failed: the failure.
        span: traceparent of the request.
        began_ns: CLOCK_MONOTONIC instant at which the request came.
        protocol: by which it came.
    """
    journal = metrics.journal
    if journal is not None and not failed.counted:
        journal.failed(
            metrics.name,
            failed.outcome,
            failed.reason(),
            failed.stderr,
            protocol=protocol,
            traceparent=span,
            duration_ns=time.monotonic_ns() - began_ns,
        )


def log_run(level: int, served: Served, result: Result, span: str, began_ns: int) -> None:
    """Log the result and the times of a run.

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

"""Decides binding requests, and the answers to their results: the same for every protocol, in the order of Dapr.

Order of checks as in Dapr (pkg/runtime/processor/binding/send.go, sendToOutputBinding): operation, binding, operation
supported, invocation.
"""

import logging
from collections.abc import Mapping
from typing import Final

from sandboxd.front.answering import failures, payload
from sandboxd.front.answering.arguments import MetadataError, arguments, environment
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.http_guest import http_request
from sandboxd.front.answering.outcomes import INVOKE, failure
from sandboxd.front.answering.runlog import log_run, log_stderr
from sandboxd.front.ports import Served
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import BindingUnavailable
from sandboxd.wire.messages import Call, Result

log = logging.getLogger("sandboxd.request")

OPERATION: Final = "execute"


def addressed(served: Served | None, name: str, operation: str, *, loading: bool) -> Served:
    """Return the binding that a request is for.

    Parameters:
        served: the binding; None if there is none of that name.
        name: as the caller wrote it.
        operation: of the request.
        loading: nothing was loaded yet.

    Raises:
        Failure: the request names no operation, or no binding.
    """
    if not operation:
        raise as_dapr(name, "operation field is missing from request")
    if served is None and loading:
        unavailable = BindingUnavailable(name, "the server is still loading its guests", loading=True)
        raise failures.of_unavailable(unavailable, name)
    if served is None:
        raise failures.not_found(name)
    return served


def decide(
    served: Served,
    name: str,
    operation: str,
    metadata: Mapping[str, str] | None,
    data: bytes,
    trace: bytes,
    deadline_ns: int,
    *,
    told: bool = True,
) -> Call:
    """Return what the guest is called with.

    Parameters:
        served: the binding.
        name: as the caller wrote it.
        operation: of the request.
        metadata: of the request.
        data: standard input, or the body for a guest that handles HTTP.
        trace: traceparent of the new span.
        deadline_ns: CLOCK_MONOTONIC instant.
        told: whether a program is told of the span, in TRACEPARENT.

    Raises:
        Failure: there is no such operation, or the metadata asks for something impossible.
    """
    if operation != OPERATION:
        reason = f"binding {name} does not support operation {operation}. supported operations:{OPERATION}"
        raise as_dapr(name, reason, logged="the operation is not supported; only execute is")
    try:
        args = arguments(metadata, served) if metadata else ()
        if metadata or not (told and served.traced):
            env = environment(metadata, served, trace if told else b"")
        else:
            env = ((b"TRACEPARENT", trace),)
        if metadata and payload.STDOUT in metadata:
            payload.stdout_kind(metadata, served.binding.stdout)  # refused before the guest runs
        http = None if served.is_program else http_request(metadata, served.binding.name, data, trace)
    except payload.KindError as error:
        raise unfit(error) from None
    except MetadataError as error:
        if error.limit:
            served.metrics.limit_reached(error.limit)
        if error.as_dapr:
            raise as_dapr(name, str(error)) from None
        raise unfit(error) from None
    return Call(deadline_ns=deadline_ns, args=args, env=env, stdin=data, http=http)


def answered(result: Result, served: Served, number: int, span: str, began_ns: int) -> Result:
    """Log a run of the guest, which its metrics have counted already, and decide whether it succeeded.

    Parameters:
        result: how it ended.
        served: its binding.
        number: of the invocation among the binding's.
        span: traceparent of the request.
        began_ns: CLOCK_MONOTONIC instant at which the request came.

    Returns:
        the result, if the guest succeeded.

    Raises:
        Failure: it did not.
    """
    failed = failure_of(result, served, number, span, began_ns)
    if failed is not None:
        raise failed
    return result


def failure_of(result: Result, served: Served, number: int, span: str, began_ns: int) -> Failure | None:
    """Log a run of the guest, and return its failure; None if it succeeded. Parameters as of `answered`."""
    if result.stderr and log.isEnabledFor(logging.INFO):
        log_stderr(served, result, span)
    if result.outcome is Outcome.COMPLETED:
        return None
    if log.isEnabledFor(logging.DEBUG):
        log_run(logging.DEBUG, served, result, span, began_ns)
    return failures.of_result(result, served, number)


def as_dapr(name: str, reason: str, *, logged: str = "") -> Failure:
    """Return the failure for a request that Dapr understands and cannot carry out: that of a failed invocation.

    Parameters:
        name: of the binding.
        reason: for the caller.
        logged: the reason as the log has it, where the caller's words are in it.
    """
    text = failure(name, reason)
    return Failure(Outcome.BAD_REQUEST, text, status=500, grpc="INTERNAL", code=INVOKE, logged=logged)


def unfit(error: Exception) -> Failure:
    """Return the failure for a request that asks for something impossible, in metadata or in `data`."""
    what = "" if isinstance(error, payload.DataError) else "invalid request metadata: "
    return Failure(Outcome.BAD_REQUEST, f"{what}{error}")

"""From an outcome to the answer: the one table of statuses, codes, messages and log levels.

Messages follow Dapr (dapr pkg/api/errors and pkg/messages; wazero sys/error.go), so that clients that look at them
keep working. What Dapr does not have has words of its own.
"""

import logging
from dataclasses import dataclass
from typing import Final

from sandboxd.limit_keys import named, outbound_limit
from sandboxd.limits import Limits
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import PoolClosing, QueueFull, QueueTimeout, Rejected
from sandboxd.wire.messages import Result

MALFORMED: Final = "ERR_MALFORMED_REQUEST"
INVOKE: Final = "ERR_INVOKE_OUTPUT_BINDING"
NO_WORKER: Final = "ERR_NO_WORKER"
DIRECT_INVOKE: Final = "ERR_DIRECT_INVOKE"

DEADLINE: Final = "module closed with context deadline exceeded"
STDERR_TAIL_BYTES: Final = 1024
"""How much of the end of stderr an error answer carries."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one outcome is answered.

    `message` may name {guest} (argv[0] and the invocation's number, as wazero names instances), {code}, {detail} and
    {timeout}.
    """

    status: int
    code: str
    message: str
    level: int
    http: int
    """Status of an answer under /v1.0/http/: there the caller is told of a gateway and the server behind it."""


TABLE: Final[dict[Outcome, Row]] = {
    Outcome.COMPLETED: Row(200, "", "", logging.DEBUG, 200),
    Outcome.EXIT_NONZERO: Row(500, INVOKE, "module closed with exit_code({code})", logging.INFO, 502),
    Outcome.TRAPPED: Row(500, INVOKE, "module[{guest}] function[_start] failed: {detail}", logging.INFO, 502),
    Outcome.DEADLINE_EXCEEDED: Row(500, INVOKE, DEADLINE + ": more than {timeout}", logging.INFO, 504),
    Outcome.MEMORY_EXCEEDED: Row(500, INVOKE, "module[{guest}] function[_start] failed: {detail}", logging.INFO, 502),
    Outcome.OUTPUT_EXCEEDED: Row(500, INVOKE, "module[{guest}] function[_start] failed: {detail}", logging.INFO, 502),
    Outcome.CANCELLED: Row(500, INVOKE, "module closed with context canceled", logging.INFO, 503),
    Outcome.WORKER_LOST: Row(500, INVOKE, "the worker process was lost", logging.ERROR, 502),
    Outcome.HOST_FAILED: Row(500, INVOKE, "internal failure of the server", logging.ERROR, 500),
    Outcome.REJECTED: Row(503, NO_WORKER, "{detail}", logging.WARNING, 503),
    Outcome.BAD_REQUEST: Row(400, MALFORMED, "{detail}", logging.DEBUG, 400),
    Outcome.NOT_FOUND: Row(500, INVOKE, "couldn't find output binding {detail}", logging.DEBUG, 404),
    Outcome.UNAUTHORIZED: Row(401, "", "invalid api token", logging.DEBUG, 401),
}

_DEFAULT_DETAIL: Final = {
    Outcome.TRAPPED: "wasm error: trap",
    Outcome.MEMORY_EXCEEDED: "memory limit exceeded",
    Outcome.OUTPUT_EXCEEDED: "stdout limit exceeded",
}

REFUSALS: Final[dict[type[Rejected], str]] = {
    QueueFull: "no worker is free and too many requests are waiting already",
    QueueTimeout: "no worker became free in time",
    PoolClosing: "the server is shutting down",
}
"""Three refusals, three messages; all are answered with Retry-After."""


def failure(name: str, reason: str) -> str:
    """The message of a failed invocation, as Dapr words it."""
    return f"error invoking output binding {name}: {reason}"


def refusal(rejected: Rejected) -> str:
    """The message of a refusal."""
    for kind, text in REFUSALS.items():
        if isinstance(rejected, kind):
            return text
    return str(rejected)


def result_message(result: Result, argv0: str, number: int, limits: Limits) -> str:
    """The reason of a failed run, to be completed by `failure`.

    Parameters:
        argv0: name of the guest.
        number: of this invocation among the binding's.
        limits: the binding's.
    """
    row = TABLE[result.outcome]
    return row.message.format(
        guest=f"{argv0}-{number}",
        code=result.exit_code,
        detail=result.detail or _DEFAULT_DETAIL.get(result.outcome, ""),
        timeout=named("timeout_ms", limits.timeout_ms),
    )


def result_detail(result: Result, reason: str) -> str:
    """What is told beside the message: words of the host that Dapr's message has no place for, and stderr's end.

    Parameters:
        reason: what `result_message` gave; it is not said twice.
    """
    parts = []
    if result.detail and result.detail not in reason:
        parts.append(result.detail)
    if result.outbound:
        met = sorted({outbound_limit(usage.outcome, usage.denied) for usage in result.outbound} - {""})
        if met:
            parts.append(f"outbound requests met a limit: {', '.join(met)}")
    if result.stderr:
        tail = result.stderr[-STDERR_TAIL_BYTES:].decode("utf-8", "replace")
        if len(result.stderr) > STDERR_TAIL_BYTES or result.stderr_total > len(result.stderr):
            tail = tail.lstrip("\ufffd")
        parts.append(f"stderr: {tail}")
    return "\n".join(parts)

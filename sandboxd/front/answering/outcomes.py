"""The reply for each outcome: the one table of statuses, codes, messages and log levels.

The messages are Dapr's (dapr pkg/api/errors and pkg/messages; wazero sys/error.go), so that clients that parse them
keep working. Outcomes that Dapr does not have get messages of sandboxd's own.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sandboxd.errors import printable
from sandboxd.limits import Limits
from sandboxd.limits.keys import named, outbound_limit
from sandboxd.outcome import CANCELED, DEADLINE_PASSED, EXITED, Outcome
from sandboxd.pool.errors import PoolClosing, QueueFull, QueueTimeout, Rejected
from sandboxd.wire.messages import Result

MALFORMED: Final = "ERR_MALFORMED_REQUEST"
INVOKE: Final = "ERR_INVOKE_OUTPUT_BINDING"
NO_WORKER: Final = "ERR_NO_WORKER"
DIRECT_INVOKE: Final = "ERR_DIRECT_INVOKE"
NO_APP_ID: Final = "failed getting app id either from the URL path or the header dapr-app-id"
"""Dapr's message for a request that is for nothing it has."""

STDERR_TAIL_BYTES: Final = 1024
"""The length of the ends of stderr and stdout that an error reply contains. TinyGo writes panics to stdout."""

_NO_FILE: Final = (
    b"no such file or directory",
    b"preopened",
    b"pre-opened",
    b"bad file number",
    b"bad file descriptor",
)
"""The errors that standard libraries write if there is no folder, in lower case. WASI does not tell the host of it."""
_FRAME: Final = "\n\t"
_NAMELESS: Final = "\n\t.$"
"""The beginnings of a trace's lines, and of those whose function has only a number, since its module has no names."""
_DENIAL_KEYS: Final = {
    "host": ": add it to allowedOutboundHosts",
    "scheme": ": allowedOutboundHosts allows it with another scheme",
    "address": ": its address may be reached only if allowedOutboundHosts names it and egress.blockNetworks does not",
    "method": ": allowedOutboundHosts allows it with other methods",
}
"""The reason for which a request was denied -> the setting that allows it."""


@dataclass(frozen=True, slots=True)
class Row:
    """The reply for one outcome.

    `message` may name {guest} (argv[0] and the invocation's number, as wazero names instances), {code}, {detail} and
    {timeout}.
    """

    status: int
    code: str
    message: str
    level: int
    http: int
    """The status under /v1.0/http/, where sandboxd answers as a gateway for the guest."""
    grpc: str = "INTERNAL"
    """The name of the gRPC status. In Dapr every failure of a binding is INTERNAL."""


TABLE: Final[dict[Outcome, Row]] = {
    Outcome.COMPLETED: Row(200, "", "", logging.DEBUG, 200, "OK"),
    Outcome.EXIT_NONZERO: Row(500, INVOKE, EXITED, logging.INFO, 502),
    Outcome.TRAPPED: Row(
        500, INVOKE, "module[{guest}] function[_start] failed: {detail}", logging.INFO, 502, "INTERNAL"
    ),
    Outcome.DEADLINE_EXCEEDED: Row(
        500, INVOKE, DEADLINE_PASSED + ": more than {timeout}", logging.INFO, 504, "INTERNAL"
    ),
    Outcome.MEMORY_EXCEEDED: Row(
        500, INVOKE, "module[{guest}] function[_start] failed: {detail}", logging.INFO, 502, "INTERNAL"
    ),
    Outcome.OUTPUT_EXCEEDED: Row(
        500, INVOKE, "module[{guest}] function[_start] failed: {detail}", logging.INFO, 502, "INTERNAL"
    ),
    Outcome.CANCELLED: Row(500, INVOKE, CANCELED, logging.INFO, 503, "CANCELLED"),
    Outcome.WORKER_LOST: Row(500, INVOKE, "the worker process was lost", logging.ERROR, 502),
    Outcome.HOST_FAILED: Row(500, INVOKE, "internal failure of the server", logging.ERROR, 500),
    Outcome.REJECTED: Row(503, NO_WORKER, "{detail}", logging.WARNING, 503, "UNAVAILABLE"),
    Outcome.BAD_REQUEST: Row(400, MALFORMED, "{detail}", logging.DEBUG, 400, "INVALID_ARGUMENT"),
    Outcome.NOT_FOUND: Row(500, INVOKE, "couldn't find output binding {detail}", logging.INFO, 404),
    Outcome.UNAUTHORIZED: Row(401, "", "invalid api token", logging.DEBUG, 401, "UNAUTHENTICATED"),
    Outcome.CIRCUIT_OPEN: Row(500, INVOKE, "circuit breaker is open", logging.INFO, 503),
}

_DEFAULT_DETAIL: Final = {
    Outcome.TRAPPED: "wasm error: trap",
    Outcome.MEMORY_EXCEEDED: "memory limit exceeded",
    Outcome.OUTPUT_EXCEEDED: "stdout limit exceeded",
}

_RESERVED_CODES: Final = {0xFFFFFFFF: CANCELED, 0xEFFFFFFF: DEADLINE_PASSED}
"""The exit codes by which wazero tells that it ended a guest (sys/error.go). Dapr words them so even where a guest
chose them, as with `exit(-1)`."""

REFUSALS: Final[dict[type[Rejected], str]] = {
    QueueFull: "no worker is free and too many requests are waiting already",
    QueueTimeout: "no worker became free in time",
    PoolClosing: "the server is shutting down",
}
"""The message of each refusal. Every refusal has Retry-After."""


def failure(name: str, reason: str, *, http: bool = False) -> str:
    """Return the message of a failed invocation, in Dapr's words.

    Parameters:
        name: of the binding.
        reason: why it failed.
        http: the request came under /v1.0/http/, which Dapr does not have.
    """
    return f"error invoking {'HTTP guest' if http else 'output binding'} {name}: {reason}"


def refusal(rejected: Rejected) -> str:
    """Return the message of a refusal."""
    for kind, text in REFUSALS.items():
        if isinstance(rejected, kind):
            return text
    return str(rejected)


def result_message(result: Result, argv0: str, limits: Limits) -> tuple[str, ...]:
    """Return the reason of a failed run, to be completed by `failure`.

    Parameters:
        argv0: name of the guest.
        limits: the binding's.

    Returns:
        The whole text; or, if the number of the invocation among the binding's belongs into it, what stands before and
        what after that.
    """
    row = TABLE[result.outcome]
    if result.outcome is Outcome.EXIT_NONZERO and result.exit_code in _RESERVED_CODES:
        return (_RESERVED_CODES[result.exit_code],)
    values = {
        "code": result.exit_code,
        "detail": result.detail or _DEFAULT_DETAIL.get(result.outcome, ""),
        "timeout": named("timeout_ms", limits.timeout_ms) if result.outcome is Outcome.DEADLINE_EXCEEDED else "",
    }
    before, guest, after = row.message.partition("{guest}")
    if not guest:
        return (before.format_map(values) + result.trace,)
    return f"{before.format_map(values)}{argv0}-", after.format_map(values) + result.trace


def result_detail(result: Result, hints: Sequence[str], *, program: bool = True) -> str:
    """Return the `detail` of an error reply: the host's words that Dapr's message has no place for, and what the guest
    wrote last.

    Parameters:
        hints: from `result_hints`.
        program: whether its stdout is what it printed, and not the body of a response.
    """
    if not (result.stderr or result.stdout):
        return "\n".join(hints)
    parts = [*hints]
    if result.stderr:
        parts.append(f"stderr: {_tail(result.stderr, cut=result.stderr_total > len(result.stderr))}")
    if result.stdout and program:
        parts.append(f"stdout: {_tail(result.stdout)}")
    return "\n".join(parts)


def result_hints(result: Result, reason: str, *, mounts: bool = False) -> list[str]:
    """Return what the host knows about a failure beside its reason.

    Parameters:
        reason: from `result_message`; it is not repeated.
        mounts: whether the guest has folders.
    """
    parts = []
    reserved = result.outcome is Outcome.EXIT_NONZERO and result.exit_code in _RESERVED_CODES
    if result.detail and result.detail not in reason and not reserved:
        parts.append(result.detail)
    if result.outbound:
        met = sorted({outbound_limit(usage.outcome, usage.denied) for usage in result.outbound} - {""})
        if met:
            parts.append(f"outbound requests met a limit: {', '.join(met)}")
        denied = dict.fromkeys((usage.target, usage.denied) for usage in result.outbound if usage.target)
        parts += [_denial(target, why) for target, why in denied]
    if result.trace and result.trace.count(_FRAME) == result.trace.count(_NAMELESS):
        parts.append("the guest's functions have no names: build it with them (-g, and neither -s nor strip)")
    if not mounts and result.stderr and _asked_for_file(result.stderr):
        parts.append("the guest asked for a file, and the binding has no mounts (key mounts)")
    return parts


def _asked_for_file(stderr: bytes) -> bool:
    # A regular expression takes nine times as long where a guest wrote 64 KiB: over a millisecond of the front.
    text = stderr.lower()
    return any(error in text for error in _NO_FILE)


def _denial(target: str, why: str) -> str:
    key = _DENIAL_KEYS.get(why, "")
    return f"an outbound request to {printable(target)} was denied{key}"


def _tail(data: bytes, *, cut: bool = False) -> str:
    """Return the end of what a guest wrote. `cut`: it begins within a longer text."""
    tail = data[-STDERR_TAIL_BYTES:].decode("utf-8", "replace")
    return tail.lstrip("\ufffd") if cut or len(data) > STDERR_TAIL_BYTES else tail

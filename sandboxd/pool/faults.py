"""Finds the faults of frames that a worker sends and an honest worker would not.

A worker may have been taken over by its guest, so the front believes no frame. Every field is compared with what the
invocation may have: the limits of its binding, and the time since it was sent. There is no I/O here and no state. An
honest worker never exceeds these bounds, because it enforces them itself; so a frame with a fault ends its worker.

A fault is a text of this module's own words and numbers, in which nothing stands that the worker has chosen.
"""

import re
from collections.abc import Collection
from typing import Final

from hostfuncs import texts
from hostfuncs.field_rules import FIELDS_BYTES, FORBIDDEN_FIELDS, LINE_COST
from sandboxd.limits import KIB, Limits
from sandboxd.limits.keys import ALL_KEYS
from sandboxd.outcome import Outcome
from sandboxd.wire import messages as m
from sandboxd.wire.codec import MAX_FRAME_BYTES

OWN_FRAME_BYTES: Final = 512 * KIB
"""The most that a frame has beside output and records: a response's head, a piece of a body, or the texts of a result.
It is also the longest frame of a worker with nothing in flight."""
REFUSALS_BEYOND: Final = 64
"""Records of refused requests beyond the limit of requests, as `hostfuncs.outbound` keeps them."""
TEXTS_CUT_MAX: Final = 1024
"""More texts than that are cut in no run: the texts of an ending, and a few of each error that a guest made."""
SLACK_NS: Final = 1_000_000
"""The tolerance of durations, which are sums of several looks at the clock."""
CLOCKS_APART: Final = 64
"""The clock of processor time may run faster than the other by one part in so many. NTP slews that
one, by 1 in 2000."""

_EXIT_CODES: Final = 1 << 32
_COUNT_MAX: Final = 1 << 63
_RECORD_BYTES: Final = 96
"""A record of an outbound request in a frame, without its rule."""

_FROM_WORKERS: Final = frozenset(
    (
        Outcome.COMPLETED,
        Outcome.EXIT_NONZERO,
        Outcome.TRAPPED,
        Outcome.DEADLINE_EXCEEDED,
        Outcome.MEMORY_EXCEEDED,
        Outcome.OUTPUT_EXCEEDED,
        Outcome.CANCELLED,
        Outcome.HOST_FAILED,
        Outcome.BAD_REQUEST,
    )
)
"""The outcomes that a worker may give; the others are decided without one."""
_WITH_CODE: Final = frozenset((Outcome.EXIT_NONZERO, Outcome.MEMORY_EXCEEDED))
_WITH_TRACE: Final = frozenset((Outcome.TRAPPED, Outcome.MEMORY_EXCEEDED))
_DENIALS: Final = frozenset(("", "host", "address", "scheme", "method", "limit"))

_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
# RFC 9110, 5.5, with blanks around the value, which an HTTP server may take off.
_value = re.compile(rb"[\x20\x09\x21-\x7e\x80-\xff]*").fullmatch
_error_code = re.compile(r"[A-Za-z-]{1,48}").fullmatch


def frame_bytes(limits: Limits, rules: Collection[str]) -> int:
    """Return the length of the longest frame that an honest worker sends for a binding.

    Parameters:
        limits: the binding's.
        rules: what the records of its outbound requests may name.
    """
    longest = max((4 * len(rule) for rule in rules), default=0)
    records = _records_max(limits) * (_RECORD_BYTES + longest)
    return min(MAX_FRAME_BYTES, OWN_FRAME_BYTES + limits.stdout_bytes + limits.stderr_bytes + records)


def of_result(result: m.Result, limits: Limits, rules: Collection[str], span_ns: int, *, streams: bool) -> str:
    """Return the fault of a result; empty if it has none.

    Parameters:
        result: as it arrived.
        limits: the binding's.
        rules: what the records of its outbound requests may name.
        span_ns: the time since the invocation was sent to the worker, in nanoseconds.
        streams: whether the response was to come in frames of its own.
    """
    # Most results have nothing but stdout; the first lines are all that they cost.
    if result.outcome is not Outcome.COMPLETED or result.exit_code or result.detail or result.limit:
        fault = _of_ending(result)
        if fault:
            return fault
    if len(result.stdout) > limits.stdout_bytes:
        return "sent more stdout than the binding may have"
    if result.instantiate_ns < 0 or result.guest_ns < 0 or result.instantiate_ns + result.guest_ns > span_ns + SLACK_NS:
        return "told of a run that does not fit into the time since it was sent"
    if not -1 <= result.cpu_ns <= span_ns + span_ns // CLOCKS_APART + SLACK_NS:
        return "told of processor time that does not fit into the time since it was sent"
    if not 0 <= result.memory_bytes <= limits.memory_bytes:
        return "told of memory that the binding may not have"
    if result.stderr or result.stderr_total:
        if len(result.stderr) > limits.stderr_bytes:
            return "sent more stderr than the binding may have"
        if not len(result.stderr) <= result.stderr_total < _COUNT_MAX:
            return "told of a length of stderr that cannot be"
    if result.texts_cut and not 0 <= result.texts_cut <= TEXTS_CUT_MAX:
        return "told of a number of cut texts that cannot be"
    if result.queue_ns:
        return "told how long the invocation waited, which only the front knows"
    if result.http is not None:
        if streams:
            return "sent the response's head twice"
        fault = of_head(result.http.status, result.http.headers)
        if fault:
            return fault
    if result.outbound:
        return _of_records(result.outbound, limits, rules, span_ns)
    return ""


def of_head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> str:
    """Return the fault of a response's head; empty if it has none."""
    if not 200 <= status <= 599:
        return "sent a status that ends no request"
    if len(headers) > FIELDS_BYTES // LINE_COST:
        return "sent more fields than a response may have"
    size = lengths = 0
    for name, value in headers:
        size += len(name) + len(value) + LINE_COST
        if size > FIELDS_BYTES:
            return "sent longer fields than a response may have"
        if not _name(name) or not _value(value):
            return "sent a field with characters that none may have"
        lowered = name.lower()
        if lowered in FORBIDDEN_FIELDS:
            return "sent a field that belongs to the connection"
        if lowered == b"content-length":
            lengths += 1
            if lengths > 1 or announced(headers) is None:
                return "sent a Content-Length that frames nothing"
    return ""


def announced(headers: tuple[tuple[bytes, bytes], ...]) -> int | None:
    """Return the number in the first Content-Length; None if there is none, or it is no number (RFC 9110, 8.6)."""
    for name, value in headers:
        if name.lower() == b"content-length":
            text = value.strip(b" \t")
            return int(text) if text.isdigit() and len(text) <= 19 else None
    return None


def _of_ending(result: m.Result) -> str:
    outcome, code = result.outcome, result.exit_code
    if outcome not in _FROM_WORKERS:
        return "gave an outcome that only the front decides"
    if not 0 <= code < _EXIT_CODES or (code and outcome not in _WITH_CODE):
        return "gave an exit code that does not go with the outcome"
    if outcome is Outcome.EXIT_NONZERO and not code:
        return "gave no exit code"
    if len(result.detail) > texts.MAX_BYTES // 4 and len(result.detail.encode()) > texts.MAX_BYTES:
        return "sent a longer text than any worker makes"
    trace = result.trace
    if trace and (
        outcome not in _WITH_TRACE or (len(trace) > texts.TRACE_BYTES // 4 and len(trace.encode()) > texts.TRACE_BYTES)
    ):
        return "told where a guest trapped that did not, or at too great length"
    if result.limit and result.limit not in ALL_KEYS:
        return "named a limit that does not exist"
    return ""


def _records_max(limits: Limits) -> int:
    return 2 * limits.outbound_requests + REFUSALS_BEYOND


def _of_records(records: tuple[m.OutboundUsage, ...], limits: Limits, rules: Collection[str], span_ns: int) -> str:
    if len(records) > _records_max(limits):
        return "told of more outbound requests than the binding may make"
    for record in records:
        if record.rule not in rules:
            return "named an outbound rule that the binding does not have"
        if not 0 <= record.duration_ns <= span_ns + SLACK_NS:
            return "told of an outbound request that does not fit into the run"
        if record.denied not in _DENIALS or not _error_code(record.outcome):
            return "told of an end that no outbound request has"
        if len(record.target) > texts.TARGET_CHARS or (record.target and not record.denied):
            return "told of a target that no worker tells"
    return ""

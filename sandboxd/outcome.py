"""The outcome of an invocation, and the sentences that tell callers of it.

The sentences are those of `hostfuncs.outcome`, where the endings of runs are worded. The front's table of answers
(sandboxd.front.answering.outcomes) is made of the same ones.
"""

from enum import StrEnum

from hostfuncs.outcome import CANCELED, DEADLINE_PASSED, EXITED, INTERNAL_ERROR


class Outcome(StrEnum):
    """The result of a binding request. The value is the `outcome` label of every metric and log line.

    The first nine come from a worker, or from losing one. The others are decided before a worker is involved.
    """

    COMPLETED = "completed"
    """The guest returned from `_start` (or `wasi:cli/run`), called `proc_exit(0)`, or has no `_start`, as in wazero."""
    EXIT_NONZERO = "exit_nonzero"
    """The guest called `proc_exit` with a code other than 0."""
    TRAPPED = "trapped"
    """The guest was ended: a WebAssembly trap, or a broken host-call contract."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """The deadline passed while the guest was running, was blocked in a host call, or was waiting for a worker."""
    MEMORY_EXCEEDED = "memory_exceeded"
    """The guest failed, most likely because it was refused memory; RATIONALE.md says how that is known."""
    OUTPUT_EXCEEDED = "output_exceeded"
    """The guest wrote more to stdout than its limit."""
    CANCELLED = "cancelled"
    """The caller went away before the answer."""
    WORKER_LOST = "worker_lost"
    """The worker process died, or was killed, with this invocation begun."""
    HOST_FAILED = "host_failed"
    """sandboxd itself failed: a bug or an exhausted machine, never the guest's doing."""
    REJECTED = "rejected"
    """No worker was available: the queue was full, the wait too long, or the server was closing."""
    BAD_REQUEST = "bad_request"
    """The request could not be understood, or asked for an operation that does not exist."""
    NOT_FOUND = "not_found"
    """There is no binding of that name."""
    UNAUTHORIZED = "unauthorized"
    """The API token was missing or wrong."""
    CIRCUIT_OPEN = "circuit_open"
    """The binding's circuit breaker is open, so the request was refused."""

    # Enum's own is a function in Python, and each failure asks several tables.
    __hash__ = str.__hash__


__all__ = ["CANCELED", "DEADLINE_PASSED", "EXITED", "INTERNAL_ERROR", "Outcome"]

"""How an invocation ended: one enumeration for HTTP status, log line and metric label."""

from enum import StrEnum


class Outcome(StrEnum):
    """The result of a binding request. The value is the `outcome` label of every metric and log line.

    The first eight are decided in a worker or by losing one; the others before a worker is involved.
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
    """No worker could be had: queue full, waited too long, or the server is closing."""
    BAD_REQUEST = "bad_request"
    """The request could not be understood, or asked for an operation that does not exist."""
    NOT_FOUND = "not_found"
    """There is no binding of that name."""
    UNAUTHORIZED = "unauthorized"
    """The API token was missing or wrong."""

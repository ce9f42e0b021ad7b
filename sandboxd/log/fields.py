"""The fields that a log line may have beside its message."""

from collections.abc import Mapping
from typing import Any, Final

FIELDS: Final = frozenset(
    (
        "binding",
        "outcome",
        "request_id",
        "trace_id",
        "status",
        "error_code",
        "protocol",
        "duration_ms",
        "queue_ms",
        "instantiate_ms",
        "guest_ms",
        "exit_code",
        "memory_bytes",
        "stdin_bytes",
        "stdout_bytes",
        "stderr_bytes",
        "outbound_requests",
        "reason",
        "detail",
        "stderr",
        "path",
        "line",
        "url",
        "address",
        "worker_pid",
        "worker_serial",
        "workers",
        "count",
        "engine",
        "event",
        "generation",
        "cell",
    )
)
"""Names that a line may have beside time, level, logger and message."""

ATTRIBUTE: Final = "sandboxd_fields"
"""The attribute of a record that has them."""


def fields(**values: object) -> Mapping[str, Any]:
    """Return the `extra` argument of a logging call.

    Raises:
        KeyError: a name is not in FIELDS.
    """
    for name in values:
        if name not in FIELDS:
            raise KeyError(name)
    return {ATTRIBUTE: values}

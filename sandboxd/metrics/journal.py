"""The latest failures of each binding, and the outbound hosts that it was denied: for people, not for Prometheus.

All of it comes from callers and guests, so its size is bounded. It is kept only if the status page is served.
"""

import time
from collections import Counter, OrderedDict, deque
from typing import Final, NamedTuple

import msgspec

from hostfuncs import texts

MAX_BINDINGS: Final = 64
"""The most bindings whose failures are kept: those that failed last."""
MAX_FAILURES: Final = 20
"""The most failures that are kept of one binding."""
MAX_REASON_BYTES: Final = 2048
MAX_STDERR_BYTES: Final = 1024
MAX_HOSTS: Final = 32
"""The most denied hosts of one binding that are counted. Others are counted together."""
MAX_HOST_CHARACTERS: Final = 200
OTHERS: Final = "others"


class FailureNote(msgspec.Struct, frozen=True, kw_only=True):
    """One failed request."""

    binding: str
    at: float
    """The instant of its end, in seconds since the epoch."""
    outcome: str
    protocol: str
    reason: str
    """The reason as in the log, with the functions of the guest's stack."""
    stderr: str = ""
    """The end of the guest's standard error."""
    trace_id: str = ""
    request_id: str = ""
    duration_ms: float = 0.0


class _Kept(NamedTuple):
    """A failure as it is kept. It becomes a `FailureNote` only for a reader, because most are never read."""

    at: float
    outcome: str
    protocol: str
    reason: str
    stderr: bytes | str
    traceparent: str
    duration_ns: int

    def note(self, binding: str) -> FailureNote:
        """Return the failure as a note."""
        stderr = self.stderr
        return FailureNote(
            binding=binding,
            at=self.at,
            outcome=str(self.outcome),
            protocol=self.protocol,
            reason=texts.bounded(self.reason, MAX_REASON_BYTES),
            stderr=texts.ending(stderr, MAX_STDERR_BYTES) if isinstance(stderr, bytes) else stderr,
            trace_id=self.traceparent[3:35],
            request_id=self.traceparent[36:52],
            duration_ms=self.duration_ns / 1e6,
        )


class Journal:
    """Keeps failures and denied hosts, by binding."""

    def __init__(self) -> None:
        # Plain tuples of the fields of `_Kept`: making one of those takes three times as long.
        self._failures: OrderedDict[str, deque[tuple[float, str, str, str, bytes | str, str, int]]] = OrderedDict()
        self._denied: OrderedDict[str, Counter[str]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Journal of {len(self._failures)} bindings>"

    def failed(
        self,
        binding: str,
        outcome: str,
        reason: str,
        stderr: bytes = b"",
        *,
        protocol: str,
        traceparent: str,
        duration_ns: int,
    ) -> None:
        """Keep a failure.

        Parameters:
            binding: the binding's name; empty if the request named none.
            outcome, stderr, protocol: see `FailureNote`.
            reason: see `FailureNote`; at most `hostfuncs.texts.MAX_BYTES` of it.
            traceparent: the request's.
            duration_ns: the duration of the request.
        """
        notes = self._failures.get(binding)
        if notes is None:
            notes = self._failures[binding] = deque(maxlen=MAX_FAILURES)
            if len(self._failures) > MAX_BINDINGS:
                self._failures.popitem(last=False)
        self._failures.move_to_end(binding)
        ending = stderr if len(stderr) <= MAX_STDERR_BYTES else texts.ending(stderr, MAX_STDERR_BYTES)
        notes.append((time.time(), outcome, protocol, reason, ending, traceparent, duration_ns))

    def denied(self, binding: str, target: str) -> None:
        """Count an outbound request that the egress policy denied.

        Parameters:
            binding: the binding's name.
            target: the scheme and authority as the guest wrote them.
        """
        hosts = self._denied.get(binding)
        if hosts is None:
            hosts = self._denied[binding] = Counter()
            if len(self._denied) > MAX_BINDINGS:
                self._denied.popitem(last=False)
        self._denied.move_to_end(binding)
        target = target[:MAX_HOST_CHARACTERS]
        hosts[target if target in hosts or len(hosts) < MAX_HOSTS else OTHERS] += 1

    def failures_of(self, binding: str) -> tuple[FailureNote, ...]:
        """Return the latest failures of a binding, the oldest first."""
        return tuple(_Kept(*kept).note(binding) for kept in self._failures.get(binding, ()))

    def denied_of(self, binding: str) -> dict[str, int]:
        """Return the number of denied requests of a binding, by target."""
        return dict(self._denied.get(binding, ()))

    def forget(self, binding: str) -> None:
        """Remove everything about a binding that is no longer configured."""
        self._failures.pop(binding, None)
        self._denied.pop(binding, None)

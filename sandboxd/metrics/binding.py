"""The metrics of one binding."""

from collections.abc import Mapping
from typing import Final

from sandboxd.limits.keys import ALL_KEYS, key_of, outbound_limit
from sandboxd.metrics.families import Families
from sandboxd.metrics.journal import Journal
from sandboxd.metrics.series import MOST_PENDING, Counter, Histogram
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import OutboundUsage, Result

HTTP: Final = "http"
GRPC: Final = "grpc"
"""The protocols of requests."""

_UNNAMED: Final = (
    Outcome.BAD_REQUEST,
    Outcome.NOT_FOUND,
    Outcome.UNAUTHORIZED,
    Outcome.CANCELLED,
    Outcome.REJECTED,
)
"""The outcomes of requests that name no configured binding."""

_TIMEOUT_KEY: Final = key_of("timeout_ms")
_STDERR_KEY: Final = key_of("stderr_bytes")

MEASURED_NS: Final = 1e9
"""The time of measured runs from which the processor time of other runs is estimated."""
MAX_REPORTED: Final = 128
MAX_REPORTED_CHARACTERS: Final = 300
"""The most rules, the most error codes, and the longest of either, for one binding. Others are counted as `other`."""

DENIAL_REASONS: Final = frozenset(("host", "address", "scheme", "method", "limit"))


class BindingMetrics:
    """The children of one binding in every metric, looked up once. `Metrics.binding` makes it."""

    def __init__(self, metrics: Families, name: str) -> None:
        self._metrics = metrics
        self.name = name
        """The binding; empty for requests that name no configured binding."""
        self._requests: dict[Outcome, Counter] = {
            outcome: metrics.requests.labels(name, HTTP, outcome.value) for outcome in (Outcome if name else _UNNAMED)
        }
        self._grpc_requests: dict[Outcome, Counter] = {}
        self._durations: dict[Outcome, Histogram] = {}
        self._dapr: dict[tuple[str, bool], tuple[Counter, Histogram]] = {}
        self._completed: Histogram | None = None
        self.memory_peak = 0
        """The largest memory of a run since the start. Bytes."""
        self._measured_cpu_ns = self._measured_ns = 0.0
        """The processor time, and the duration, of the latest runs that were measured."""
        self._rules: set[str] = set()
        self._codes: set[str] = set()
        if name:
            self._completed = self._duration(Outcome.COMPLETED)
            self._completed_requests = self._requests[Outcome.COMPLETED]
            self._queue_wait = metrics.queue_wait.labels(name)
            self._instantiate = metrics.instantiate.labels(name)
            self._guest = metrics.guest.labels(name)
            self._cpu = metrics.cpu.labels(name)
            self._memory = metrics.memory.labels(name)
            self._stdin = metrics.stdin.labels(name)
            self._stdout = metrics.stdout.labels(name)
            self._of_runs = (
                self._queue_wait,
                self._instantiate,
                self._guest,
                self._memory,
                self._stdin,
                self._stdout,
            )
            """Each run appends to what is pending of all of these."""

    def __repr__(self) -> str:
        return f"<BindingMetrics {self.name!r}>"

    def requests_by_protocol(self) -> tuple[Mapping[Outcome, Counter], ...]:
        """Return the counters of requests, one table for each protocol."""
        return self._requests, self._grpc_requests

    def completed_buckets(self) -> list[int]:
        """Return the number of completed requests in each bucket of `SECONDS`, and above the last one."""
        return self._completed.counts if self._completed is not None else []

    @property
    def cpu_s(self) -> float:
        """The processor time of the guest's runs since the start, in seconds."""
        return self._cpu.value if self.name else 0.0

    def runs(self) -> Mapping[str, Histogram]:
        """Return the histograms of the guest's runs: wait, guest, stdin, stdout. Empty without a name."""
        if not self.name:
            return {}
        return {
            "wait": self._queue_wait,
            "guest": self._guest,
            "stdin": self._stdin,
            "stdout": self._stdout,
        }

    @property
    def journal(self) -> Journal | None:
        """See `Families.journal`."""
        return self._metrics.journal

    def _duration(self, outcome: Outcome) -> Histogram:
        found = self._durations.get(outcome)
        if found is None:
            found = self._durations[outcome] = self._metrics.durations.labels(self.name, outcome.value)
        return found

    def ended(self, outcome: Outcome, seconds: float) -> None:
        """Count a request that was answered or abandoned.

        Parameters:
            outcome: its outcome.
            seconds: the time since its head arrived.
        """
        if outcome is Outcome.COMPLETED and self._completed is not None:
            # The usual outcome needs no table, in which the look-up would call a Python function to hash the outcome.
            self._completed_requests.value += 1
            pending = self._completed.pending
            pending.append(seconds)
            if len(pending) >= MOST_PENDING:
                self._completed.fold()
        else:
            self._requests[outcome].value += 1
            (self._durations.get(outcome) or self._duration(outcome)).observe(seconds)

    def ended_grpc(self, outcome: Outcome, seconds: float) -> None:
        """Count a request that came over gRPC. See `ended` for the parameters."""
        count = self._grpc_requests.get(outcome)
        if count is None:
            count = self._grpc_requests[outcome] = self._metrics.requests.labels(self.name, GRPC, outcome.value)
        count.value += 1
        self._duration(outcome).observe(seconds)

    def ran(
        self, result: Result, stdin_bytes: int, stdout_bytes: int | None = None, *, by_policy: bool = False
    ) -> None:
        """Record one run of the guest.

        Parameters:
            result: the worker's result.
            stdin_bytes: the length of the input.
            stdout_bytes: the length of the output; None if `result` holds the output.
            by_policy: whether its deadline came from a resiliency policy and not from the binding's limit.
        """
        waits = self._queue_wait.pending
        waits.append(result.queue_ns * 1e-9)
        self._instantiate.pending.append(result.instantiate_ns * 1e-9)
        self._guest.pending.append(result.guest_ns * 1e-9)
        took_ns = result.instantiate_ns + result.guest_ns
        if result.cpu_ns >= 0:
            self._cpu.value += result.cpu_ns * 1e-9
            # A worker's first run of a guest, always measured, has the host do much beside it that later ones do not.
            self._measured_cpu_ns += min(result.cpu_ns, took_ns)
            self._measured_ns += took_ns
            if self._measured_ns > MEASURED_NS:
                # Old measurements lose weight, because a guest's behaviour changes.
                self._measured_cpu_ns /= 2
                self._measured_ns /= 2
        elif self._measured_ns:
            self._cpu.value += took_ns * (self._measured_cpu_ns / self._measured_ns) * 1e-9
        else:
            self._cpu.value += took_ns * 1e-9
        self._memory.pending.append(result.memory_bytes)
        if result.memory_bytes > self.memory_peak:
            self.memory_peak = result.memory_bytes
        self._stdin.pending.append(stdin_bytes)
        self._stdout.pending.append(len(result.stdout) if stdout_bytes is None else stdout_bytes)
        if len(waits) >= MOST_PENDING:
            for histogram in self._of_runs:
                histogram.fold()
        if result.outcome is Outcome.DEADLINE_EXCEEDED:
            if not by_policy:
                self.limit_reached(_TIMEOUT_KEY)
        elif result.limit:
            self.limit_reached(result.limit)
        if result.texts_cut:
            self._metrics.texts_cut.labels(self.name).inc(max(0, min(result.texts_cut, MAX_REPORTED)))
        if result.stderr_total > len(result.stderr):
            self.limit_reached(_STDERR_KEY)
        if result.outbound:
            for usage in result.outbound:
                self._sent(usage)

    def retried(self) -> None:
        """Count a further attempt of a request."""
        self._metrics.retries.labels(self.name).inc()

    def timed_out(self) -> None:
        """Count an attempt that the timeout of a resiliency policy ended."""
        self._metrics.policy_timeouts.labels(self.name).inc()

    def limit_reached(self, key: str) -> None:
        """Count a limit that was reached.

        Parameters:
            key: one of `sandboxd.limits.keys.ALL_KEYS`. Others, which only a compromised worker sends, are ignored.
        """
        if key in ALL_KEYS:
            self._metrics.limits.labels(self.name, key).inc()

    def _sent(self, usage: OutboundUsage) -> None:
        metrics = self._metrics
        limit = outbound_limit(usage.outcome, usage.denied)
        if limit:
            self.limit_reached(limit)
        if usage.denied:
            if metrics.journal is not None:
                metrics.journal.denied(self.name, usage.target)
            reason = usage.denied if usage.denied in DENIAL_REASONS else "limit"
            metrics.denied.labels(self.name, reason).inc()
            return
        rule = self._known(self._rules, usage.rule)
        metrics.outbound.labels(self.name, rule, self._known(self._codes, usage.outcome)).inc()
        metrics.outbound_durations.labels(self.name, rule).observe(usage.duration_ns * 1e-9)

    def _known(self, seen: set[str], text: str) -> str:
        """Return the label value for a text of a worker. A compromised worker must not create series without limit."""
        if text not in seen:
            if len(seen) >= MAX_REPORTED or len(text) > MAX_REPORTED_CHARACTERS:
                return "other"
            seen.add(text)
        return text

    def dapr_event(self, operation: str, *, success: bool, seconds: float) -> None:
        """Count a request in daprd's metrics, if they are enabled.

        Parameters:
            operation: the request's operation. All but `execute` and an empty one are counted as `other`, so that
                callers cannot create series.
            success: whether daprd would count it as a success.
            seconds: its duration.
        """
        labels = self._metrics.dapr
        if labels is None:
            return
        shown = operation if operation in ("", "execute") else "other"
        children = self._dapr.get((shown, success))
        if children is None:
            values = (
                labels.app_id,
                self.name,
                labels.namespace,
                shown,
                "true" if success else "false",
            )
            children = (self._metrics.dapr_count.labels(*values), self._metrics.dapr_latencies.labels(*values))
            self._dapr[shown, success] = children
        children[0].value += 1
        children[1].observe(seconds * 1000)

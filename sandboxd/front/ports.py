"""The protocols by which the front uses the rest of the server, and the snapshot of the bindings that it serves."""

import re
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, MutableMapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import quote

from sandboxd.components.binding import Binding, ListedComponent
from sandboxd.metrics import BindingMetrics, Metrics
from sandboxd.pool.errors import Rejected
from sandboxd.pool.invocation import Receiver
from sandboxd.pool.stream import Stream
from sandboxd.wire.messages import Call, Result
from sandboxd.wire.streams import StdinKind, StdoutKind

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Invoked(Protocol):
    """An invocation that was accepted."""

    def abandon(self) -> None:
        """Cancel it, because its caller has left. Its `receive` is not called any more."""
        ...


class Invoker(Protocol):
    """Runs guests. The pool does, and stand-ins in tests do."""

    async def invoke(self, binding: str, call: Call, stream: Stream | None = None) -> Result:
        """Run a guest once. Cancelling the awaiting task cancels the invocation.

        Parameters:
            binding: its name.
            call: the input of the invocation.
            stream: carries the response; closed when the invocation is over.

        Raises:
            Rejected: no worker is available.
            BindingUnavailable: the binding cannot run.
        """
        ...

    def begin(self, binding: str, call: Call, receive: Receiver, stream: Stream | None = None) -> Invoked:
        """Begin an invocation as `invoke` does, without waiting for it.

        Parameters:
            binding, call, stream: see `invoke`.
            receive: called with the result, or with the error, after this has returned. It must neither raise nor begin
                an invocation.
        """
        ...

    def capacity(self, binding: str) -> int:
        """Return how many further invocations of a binding would be accepted now. At 0, `invoke` refuses."""
        ...

    def has_room(self, binding: str) -> bool:
        """Return whether `capacity` is more than 0."""
        ...

    def has_short_runs(self) -> bool:
        """Return whether guests run so briefly that workers wait for the front rather than the other way round."""
        ...

    def reject_queue_full(self, binding: str) -> Rejected:
        """Count a rejection for a full queue that was decided without `invoke`. Return the error for the reply."""
        ...


Attempt = Callable[[Call, bool], Awaitable[Result]]
"""Runs a guest once. Its parameters are the call, and whether the call's deadline is the policy's timeout.

It raises the front's Failure.
"""


class Guard(Protocol):
    """Applies the resiliency policies of one binding to its requests."""

    async def run(self, call: Call, attempt: Attempt, *, hurried: bool = False) -> Result:
        """Run a guest, as often as the policy wants and the call's deadline allows.

        Parameters:
            call: the call. Its deadline is that of all attempts together.
            attempt: runs the guest once.
            hurried: whether the deadline is the caller's own. Passing it then says nothing about the binding.

        Raises:
            Failure: the latest attempt failed, or the breaker is open.
        """
        ...


class Health(Protocol):
    """The state of the server, for the health endpoints."""

    def not_ready(self) -> list[str]:
        """Return the conditions that the server still waits for; empty when it is ready."""
        ...

    def waits_for(self) -> str:
        """Return in words what the server waits for, and for how long it has; empty if nothing is known."""
        ...

    def remarks(self) -> Mapping[str, str]:
        """Return the entries that /v1.0/metadata shows under `extended` beside the callers' attributes."""
        ...


class Cells(Protocol):
    """The other cells of a server that has several. A caller reaches any of them and is told about all."""

    attributes: dict[str, str]
    """The attributes that callers have set with PUT /v1.0/metadata/{key} at any cell."""

    def share_attribute(self, key: str, value: str) -> None:
        """Tell the other cells of an attribute that was set here."""
        ...

    def summary(self) -> str:
        """Return in words how many cells are ready."""
        ...

    async def expose(self, accept: str, rest: float) -> tuple[Sequence[bytes], str]:
        """Return the metrics of all cells as text, in parts, and its Content-Type.

        Parameters:
            accept: the scrape's Accept header.
            rest: the pause after each part of the work, as a multiple of the time that the part took.

        Raises:
            TimeoutError: the other cells do not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """The slowest pace at which a request's body may come."""

    timeout_s: float = 30.0
    """The longest pause within a body. The rate is not counted before that time has passed."""
    min_rate: int = 1024
    """The least rate after that, in bytes per second; 0 for any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontSettings:
    """The settings of the front."""

    version: str
    app_id: str = "sandboxd"
    api_token: str | None = field(default=None, repr=False)
    """DAPR_API_TOKEN; None or empty switches authentication off."""
    dapr_only: bool = False
    """Whether to answer the paths that Dapr does not have, /v1.0/bindings/NAME/raw and /v1.0/http/, as Dapr does."""
    allowed_origins: tuple[str, ...] = ()
    """Origins that get CORS headers; `*` for all."""
    max_body_bytes: int = 4 * 1024 * 1024
    """The longest request body that is read. Bytes, at least 1."""
    pace: Pace = Pace()
    wall: str = "auto"
    """The wall around the processes that decode bodies, see `sandboxd.wall.Mode`."""


_control = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
"""A character that no value of a header may have (RFC 9110, 5.5)."""


@dataclass(slots=True)
class Served:
    """A binding, with everything about it that can be computed before a request comes."""

    binding: Binding
    metrics: BindingMetrics
    argv0: str
    success_headers: Headers
    success_lines: bytes
    """The same as lines of a head in HTTP/1.1; empty if they cannot be sent."""
    timeout_ns: int
    fixed_env: frozenset[str]
    """The names of variables that a request cannot set."""
    args_room: int
    """Bytes left for arguments beside argv[0]."""
    env_room: int
    """Bytes left for the environment beside the operator's."""
    traced: bool
    """Whether the server sets TRACEPARENT: the binding wants it, the operator did not set it, and it fits."""
    is_program: bool = True
    """Whether the binding's guest is run as a command. Otherwise it is called with an HTTP request."""
    handles_http: bool = False
    """Whether the guest can be called with HTTP requests. A component may be a command, too."""
    converts_stdin: bool = False
    """Whether the binding's stdin is of another kind than Dapr's."""
    converts_stdout: bool = False
    """Whether the binding's replies are of another kind than Dapr's."""
    guard: Guard | None = None
    """Applies the binding's resiliency policies; None if it has none."""
    path: bytes = b""
    """Its path in a request line, in its usual spelling."""
    runs: int = 0
    """The number of invocations so far. Dapr's names of instances contain it."""
    failures: dict[Hashable, Any] = field(default_factory=dict)
    """The answers for failures that came last. See `sandboxd.front.answering.failures.of_result`."""

    def serves(self, binding: Binding, metrics: BindingMetrics, is_program: bool, handles_http: bool) -> bool:
        """Return whether `of` would make the same of these parameters."""
        same = self.is_program is is_program and self.handles_http is handles_http and self.metrics is metrics
        return same and self.binding == binding

    @classmethod
    def of(
        cls, binding: Binding, metrics: BindingMetrics, *, is_program: bool = True, handles_http: bool = False
    ) -> "Served":
        """Prepare a binding."""
        argv0 = binding.argv0
        kind = binding.content_type.encode("latin-1", "replace")
        operator = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in binding.env)
        return cls(
            binding=binding,
            metrics=metrics,
            argv0=argv0,
            success_headers=[(b"content-type", kind)],
            success_lines=b"" if _control(kind) else b"content-type: %b\r\n" % kind,
            timeout_ns=binding.limits.timeout_ms * 1_000_000,
            fixed_env=frozenset(name for name, _ in binding.env),
            args_room=binding.limits.args_bytes - len(argv0.encode()) - 1,
            env_room=binding.limits.env_bytes - operator,
            traced=binding.traceparent
            and binding.limits.env_bytes - operator >= 80
            and all(name != "TRACEPARENT" for name, _ in binding.env),
            is_program=is_program,
            handles_http=handles_http,
            converts_stdin=binding.stdin is not StdinKind.JSON,
            converts_stdout=binding.stdout is not StdoutKind.RAW,
            path=f"/v1.0/bindings/{quote(binding.name, safe='')}".encode(),
        )


@dataclass(frozen=True, slots=True)
class Bindings:
    """All bindings at one instant. A reload replaces the whole object with one assignment."""

    by_name: Mapping[str, Served] = field(default_factory=lambda: MappingProxyType({}))
    by_path: Mapping[bytes, Served] = field(default_factory=lambda: MappingProxyType({}))
    """The bindings by their path in a request line, in its usual spelling."""
    loading: bool = True
    """Whether nothing has been loaded yet. A name that is missing may then still come."""
    listed: tuple[ListedComponent, ...] = ()
    """The components that /v1.0/metadata shows beside the bindings."""

    @classmethod
    def of(
        cls,
        bindings: Iterable[Binding],
        metrics: Metrics,
        *,
        programs: Set[str] | None = None,
        handlers: Set[str] = frozenset(),
        guards: Mapping[str, Guard] | None = None,
        listed: tuple[ListedComponent, ...] = (),
        former: "Bindings | None" = None,
    ) -> "Bindings":
        """Prepare bindings.

        Parameters:
            programs: names of those whose guest can be run as a command; None means all.
            handlers: names of those whose guest handles HTTP requests.
            guards: the guards of those that have resiliency policies.
            listed: the components that are shown beside them.
            former: the bindings served until now. Those that have not changed are taken over, which is what makes a
                reload of one among a thousand short.
        """
        known = former.by_name if former is not None else {}
        guards = guards or {}
        by_name: dict[str, Served] = {}
        for binding in bindings:
            name = binding.name
            measured = metrics.binding(name)
            is_program = programs is None or name in programs
            handles_http = name in handlers
            served = known.get(name)
            if served is None or not served.serves(binding, measured, is_program, handles_http):
                served = Served.of(binding, measured, is_program=is_program, handles_http=handles_http)
            served.guard = guards.get(name)
            by_name[name] = served
        by_path = {served.path: served for served in by_name.values()}
        return cls(MappingProxyType(by_name), MappingProxyType(by_path), loading=False, listed=listed)

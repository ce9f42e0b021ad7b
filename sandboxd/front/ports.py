"""What the front needs of the rest of the server, as protocols, and the snapshot of what it serves."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import quote

from sandboxd.components.binding import Binding
from sandboxd.metrics import BindingMetrics, Metrics
from sandboxd.modules.source import guest_name
from sandboxd.pool.errors import Rejected
from sandboxd.pool.stats import PoolStats
from sandboxd.pool.stream import Stream
from sandboxd.wire.messages import HttpRequest, Result

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Invoker(Protocol):
    """Runs guests: the pool, or a stand-in."""

    async def invoke(
        self,
        binding: str,
        *,
        args: tuple[bytes, ...] = (),
        env: tuple[tuple[bytes, bytes], ...] = (),
        stdin: bytes = b"",
        deadline_ns: int,
        http: HttpRequest | None = None,
        stream: Stream | None = None,
    ) -> Result:
        """Run a guest once. Cancelling the awaiting task cancels the invocation.

        Parameters:
            deadline_ns: CLOCK_MONOTONIC instant by which it must be over.
            stream: through it the response flows; closed when the invocation is over.

        Raises:
            Rejected: no worker could be had.
            BindingUnavailable: the binding cannot run.
        """
        ...

    def room(self, binding: str) -> int:
        """How many further invocations of a binding would be taken now. `invoke` refuses when there is none."""
        ...

    def brisk(self) -> bool:
        """Whether guests run so briefly that workers soon wait for the front."""
        ...

    def turn_away(self) -> Rejected:
        """Count a refusal for want of room that was decided without `invoke`; the error to answer it with."""
        ...

    def ready(self) -> bool:
        """Whether a worker could take an invocation."""
        ...

    def stats(self) -> PoolStats:
        """A reading for the metrics."""
        ...


class Health(Protocol):
    """What the health endpoints ask."""

    def not_ready(self) -> list[str]:
        """Names of what still keeps the server from being ready; empty when it is."""
        ...

    def remarks(self) -> Mapping[str, str]:
        """What /v1.0/metadata tells under `extended` beside what callers left there."""
        ...


class Cells(Protocol):
    """The cells of a server that has several: a caller reaches any of them, and is to hear of all."""

    attributes: dict[str, str]
    """What callers have left with PUT /v1.0/metadata/{key} at any cell."""

    def share_attribute(self, key: str, value: str) -> None:
        """Have the other cells know what was set in `attributes` here."""
        ...

    def summary(self) -> str:
        """How many cells are ready, in words."""
        ...

    async def expose(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all as text, and its Content-Type.

        Raises:
            TimeoutError: they cannot be had.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontSettings:
    """What the front is told by the configuration."""

    version: str
    app_id: str = "sandboxd"
    api_token: str | None = field(default=None, repr=False)
    """DAPR_API_TOKEN; None or empty switches authentication off."""
    allowed_origins: tuple[str, ...] = ()
    """Origins that get CORS headers; `*` for all."""
    max_body_bytes: int = 4 * 1024 * 1024
    """Longest request body read. Bytes, at least 1."""


@dataclass(slots=True)
class Served:
    """One binding as the endpoint needs it: everything that can be known before a request is."""

    binding: Binding
    metrics: BindingMetrics
    argv0: str
    success_headers: Headers
    timeout_ns: int
    fixed_env: frozenset[str]
    """Names a request cannot set."""
    args_room: int
    """Bytes left for arguments beside argv[0]."""
    env_room: int
    """Bytes left for the environment beside the operator's."""
    traced: bool
    """TRACEPARENT is free for the server to set, and there is room for it."""
    proxy: bool = False
    """Its guest handles HTTP requests and is no command."""
    runs: int = 0
    """Invocations so far: the number in Dapr's name of an instance."""

    @classmethod
    def of(cls, binding: Binding, metrics: BindingMetrics, *, proxy: bool = False) -> "Served":
        """Prepare a binding."""
        argv0 = guest_name(binding.url)
        operator = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in binding.env)
        return cls(
            binding=binding,
            metrics=metrics,
            argv0=argv0,
            success_headers=[(b"content-type", binding.content_type.encode("latin-1", "replace"))],
            timeout_ns=binding.limits.timeout_ms * 1_000_000,
            fixed_env=frozenset(name for name, _ in binding.env),
            args_room=binding.limits.args_bytes - len(argv0.encode()) - 1,
            env_room=binding.limits.env_bytes - operator,
            traced=binding.limits.env_bytes - operator >= 80 and all(name != "TRACEPARENT" for name, _ in binding.env),
            proxy=proxy,
        )


@dataclass(frozen=True, slots=True)
class Bindings:
    """All bindings at one instant. A reload makes a new one and swaps it in with one assignment."""

    by_name: Mapping[str, Served] = field(default_factory=lambda: MappingProxyType({}))
    by_path: Mapping[bytes, Served] = field(default_factory=lambda: MappingProxyType({}))
    """By the path as it stands in the request line, for the usual spelling."""
    loading: bool = True
    """Nothing was loaded yet: a name that is not here may come."""

    @classmethod
    def of(cls, bindings: Iterable[Binding], metrics: Metrics, proxies: Set[str] = frozenset()) -> "Bindings":
        """Prepare bindings.

        Parameters:
            proxies: names of those whose guest handles HTTP requests.
        """
        by_name = {
            binding.name: Served.of(binding, metrics.binding(binding.name), proxy=binding.name in proxies)
            for binding in bindings
        }
        by_path = {f"/v1.0/bindings/{quote(name, safe='')}".encode(): served for name, served in by_name.items()}
        return cls(MappingProxyType(by_name), MappingProxyType(by_path), loading=False)

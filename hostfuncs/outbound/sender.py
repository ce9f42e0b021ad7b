"""The engine of a worker: event loop, connection pools, TLS. The only place that knows httpx's transport layer.

Requests go to httpcore2, the transport under httpx2, and not through an httpx2 client: WASI has no cookies, redirects,
authentication or environment proxies, so there is nothing left for the client to do but to copy headers.
"""

import asyncio
import weakref
from collections.abc import Callable

# httpcore2's locks load this with the first request; loaded before the fork, its pages are shared.
import anyio._backends._asyncio  # noqa: F401
import httpcore2

from hostfuncs.outbound.connection import Connection
from hostfuncs.outbound.exchanges import Exchanges
from hostfuncs.outbound.network import Resolver, Stream, SystemResolver
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.shapes import OutboundLimits, Settings
from hostfuncs.outbound.tls import Contexts, contexts


class _Pool(httpcore2.AsyncConnectionPool):
    """httpcore2's pool with our connections in it."""

    def __init__(self, outbound: "Outbound") -> None:
        settings = outbound.settings
        super().__init__(
            max_connections=settings.connections,
            max_keepalive_connections=min(settings.idle_connections, settings.connections),
            keepalive_expiry=settings.keepalive_ms / 1000,
            http2=settings.http2,
            ssl_context=outbound.contexts.common,
            proxy=None if settings.proxy is None else _proxy(settings.proxy),
        )
        self._outbound = outbound

    def create_connection(self, origin: httpcore2.Origin) -> httpcore2.AsyncConnectionInterface:
        """One of ours; through a proxy, one of httpcore2's, which can do less (see `Settings.proxy`)."""
        if self._outbound.settings.proxy is not None:
            return super().create_connection(origin)
        return self._outbound.new_connection(origin, self)


class Outbound:
    """Outbound HTTP of one worker. Make it after the fork; it starts nothing until the first request.

    Connections are pooled per policy: a connection one binding may have is never handed to another that may not. A
    worker runs one invocation at a time, so all pools but the current one hold idle connections only, and the oldest
    of them are closed when `Settings.connections` is reached.

    Parameters:
        settings: see there.
        resolver: turns names into addresses; the system's by default.
        new_loop: makes the event loop; `asyncio.new_event_loop` by default.

    Raises:
        ValueError: a certificate file, pattern or proxy in the settings is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        resolver: Resolver | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self.settings = settings or Settings()
        if self.settings.proxy is not None:
            _proxy(self.settings.proxy)
        self.contexts: Contexts = contexts(self.settings)
        """Whom to trust."""
        self._resolver = resolver or SystemResolver()
        self._new_loop = new_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: dict[Policy, _Pool] = {}
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.era = 0
        """Counts the times the loop was set going again."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop; runs only inside `Exchanges.wait` and `Exchanges.turn`."""
        if self._loop is None:
            self._loop = self._new_loop()
        return self._loop

    def begin(
        self,
        policy: Policy,
        limits: OutboundLimits,
        deadline_ns: int,
        check: Callable[[], None] | None = None,
    ) -> Exchanges:
        """Open the requests of one invocation. Costs nothing until the first request.

        Parameters:
            policy: who may be called.
            limits: ceilings of the invocation.
            deadline_ns: CLOCK_MONOTONIC instant.
            check: asked every 50 ms while `Exchanges.wait` blocks; what it raises leaves `wait`.
        """
        return Exchanges(self, policy, limits, deadline_ns, check)

    def pool(self, policy: Policy) -> httpcore2.AsyncConnectionPool:
        """Return the pool of a policy."""
        # Moved to the end, so that the first is the one unused for longest.
        pool = self._pools.pop(policy, None) or _Pool(self)
        self._pools[policy] = pool
        return pool

    def new_connection(self, origin: httpcore2.Origin, pool: httpcore2.AsyncConnectionPool) -> Connection:
        """Make a connection for a pool."""

        async def make_room() -> None:
            """Close idle connections of other policies if this one is too many."""
            for policy, other in list(self._pools.items()):
                if sum(len(each.connections) for each in self._pools.values()) <= self.settings.connections:
                    return
                if other is not pool:
                    del self._pools[policy]
                    await other.aclose()

        return Connection(
            origin,
            contexts=self.contexts,
            resolver=self._resolver,
            keepalive_s=self.settings.keepalive_ms / 1000,
            http2=self.settings.http2,
            make_room=make_room,
            opened=self._streams.add,
            era=lambda: self.era,
        )

    @property
    def looking_up(self) -> bool:
        """Whether threads look names up; between invocations, for one that is over. The next would wait for them."""
        return isinstance(self._resolver, SystemResolver) and self._resolver.busy

    def connections(self) -> tuple[int, int]:
        """Return how many connections are active and how many are idle."""
        every = [connection for pool in self._pools.values() for connection in pool.connections]
        idle = sum(connection.is_idle() for connection in every)
        return len(every) - idle, idle

    def reset(self) -> None:
        """Throw every connection away, and the loop with them. For states that cannot be vouched for."""
        loop, self._loop = self._loop, None
        self._pools.clear()
        streams, self._streams = list(self._streams), weakref.WeakSet()
        if loop is None:
            return
        for stream in streams:
            stream.abort()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()

    def close(self) -> None:
        """Close all connections and the loop. The object can be used again."""
        loop = self._loop
        if loop is not None:
            for pool in self._pools.values():
                loop.run_until_complete(pool.aclose())
        self.reset()


def _proxy(url: str) -> httpcore2.Proxy:
    """Read `http://[user:password@]host:port`. Raises ValueError."""
    scheme, separator, rest = url.partition("://")
    credentials, _, address = rest.rpartition("@")
    host, _, port = address.rstrip("/").rpartition(":")
    if not separator or scheme != "http" or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("the outbound proxy is not http://[user:password@]host:port")
    user, _, password = credentials.partition(":")
    auth = (user.encode(), password.encode()) if credentials else None
    return httpcore2.Proxy(httpcore2.URL(scheme=b"http", host=host.encode("idna"), port=int(port), target=b"/"), auth)

"""The HTTP client of a worker: its event loop, connection pools and TLS.

Requests do not go through an httpx2 client: WASI has no cookies, redirects, authentication or environment proxies, so a
client would only copy headers. Nor do they go through the pool of httpcore2, the transport under httpx2, which calls
several hundred Python functions per request. Its connections are used for HTTP/2 and proxies.
"""

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from hostfuncs.account import Account
from hostfuncs.outbound.attempt import Connection
from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.connector import Connector, Dialer
from hostfuncs.outbound.exchanges import Exchanges
from hostfuncs.outbound.http1 import Http1Connection
from hostfuncs.outbound.network import Resolver, Stream, SystemResolver
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.pool import Pool
from hostfuncs.outbound.proxy import check_proxy
from hostfuncs.outbound.tls import Contexts, contexts
from hostfuncs.outbound.values import MIB, OutboundLimits, Settings


def warm(settings: Settings) -> Contexts:
    """Load the modules that the settings need, and read the certificate stores. Call it before workers are forked.

    Raises:
        ValueError: a certificate file, pattern or proxy in the settings is wrong.
    """
    check_proxy(settings)
    if _needs_httpcore(settings):
        from hostfuncs.outbound import httpcore_adapter  # noqa: F401 - loaded before the fork, its pages are shared
    return contexts(settings)


def _needs_httpcore(settings: Settings) -> bool:
    return settings.http2 or settings.proxy is not None


class Outbound:
    """The HTTP client of one worker. It may be made before the fork, and must be used only after it.

    There is one connection pool per policy, so that no binding gets a connection that its policy does not allow. A
    worker runs one invocation at a time, so all pools but the current one hold only idle connections. The oldest of
    them are closed when `Settings.connections` is reached.

    Parameters:
        settings: the settings.
        resolver: resolves names; the system's resolver by default.
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
        self.contexts: Contexts = warm(self.settings)
        """The TLS contexts."""
        self.in_place = not _needs_httpcore(self.settings)
        """Whether exchanges run as `InlineTask` and not as asyncio's tasks."""
        self.resolver: Resolver = resolver or SystemResolver()
        """Resolves names."""
        self.dialer: Dialer | None = None
        """Resolves names, checks the policy and connects for this process; None if the process does so itself."""
        self._new_loop = new_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: dict[Policy, Pool] = {}
        self._latest: tuple[Policy, Pool] | None = None
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        """All open streams, and perhaps some that are closed."""
        self.loop_epoch = 0
        """The number of times that the event loop has been entered."""
        self.unsettled = False
        """Whether the loop may still have tasks to run, or closed connections to finish."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop. It runs only inside `Exchanges.wait` and `Exchanges.turn`."""
        if self._loop is None:
            self._loop = self._new_loop()
        return self._loop

    def begin(
        self,
        policy: Policy,
        limits: OutboundLimits,
        deadline_ns: int,
        check: Callable[[], None] | None = None,
        account: Account | None = None,
    ) -> Exchanges:
        """Open the requests of one invocation. This costs nothing until the first request.

        Parameters:
            policy: the egress policy.
            limits: the limits of the invocation.
            deadline_ns: CLOCK_MONOTONIC instant.
            check: called every half second while `Exchanges.wait` blocks. `wait` raises its exceptions.
            account: counts the bytes that are held for the guest; by default a new one of 64 MiB.
        """
        return Exchanges(self, policy, limits, deadline_ns, check, account or Account(64 * MIB))

    def pool(self, policy: Policy) -> Pool:
        """Return the pool of a policy."""
        latest = self._latest
        if latest is not None and latest[0] is policy:
            return latest[1]
        # Moved to the end, so that the first pool is the least recently used.
        pool = self._pools.pop(policy, None) or self._new_pool()
        self._pools[policy] = pool
        self._latest = (policy, pool)
        return pool

    def _new_pool(self) -> Pool:
        settings = self.settings
        keepalive_s = settings.keepalive_ms / 1000

        def make_room() -> None:
            """Close idle connections of other policies if there are too many."""
            for policy, other in list(self._pools.items()):
                if sum(map(len, self._pools.values())) <= settings.connections:
                    return
                if other is not pool:
                    del self._pools[policy]
                    other.close()

        connector = Connector(self, make_room)
        make: Callable[[Origin], Connection] = partial(Http1Connection, connector=connector, keepalive_s=keepalive_s)
        if not self.in_place:
            from hostfuncs.outbound import httpcore_adapter

            make = httpcore_adapter.maker(settings, self.contexts, connector, make)
        pool = Pool(
            make,
            connections=settings.connections,
            idle_connections=min(settings.idle_connections, settings.connections),
            new_future=lambda: self.loop.create_future(),
            changed=self._changed,
        )
        return pool

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task. `Exchanges.close` makes sure that it ends."""
        self.unsettled = True
        return self.loop.create_task(coroutine)

    def _changed(self) -> None:
        self.unsettled = True

    @property
    def looking_up(self) -> bool:
        """Whether threads look up names for an invocation that is over. The next one would wait for them."""
        return isinstance(self.resolver, SystemResolver) and self.resolver.busy

    def connections(self) -> tuple[int, int]:
        """Return the number of connections that are taken, and the number of those that are idle."""
        pools = self._pools.values()
        return sum(pool.taken for pool in pools), sum(pool.idle for pool in pools)

    def reset(self) -> None:
        """Close every connection and the event loop, because their state is not certain."""
        loop, self._loop = self._loop, None
        self._pools.clear()
        self._latest = None
        self.unsettled = False
        streams, self.streams = list(self.streams), weakref.WeakSet()
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

    def settle(self) -> None:
        """Wait briefly until tasks that were cancelled, or that close something, have ended."""
        if not self.unsettled:
            return
        self.unsettled = False
        loop = self.loop
        pending = list(asyncio.all_tasks(loop))
        if pending:
            loop.run_until_complete(asyncio.wait(pending, timeout=1.0))
        if any(not task.done() for task in pending):
            self.reset()
        else:
            # A cancelled inline task ends in the loop's next pass, and a connection that it closes frees its descriptor
            # in the pass after that.
            for _ in range(2):
                loop.call_soon(loop.stop)
                loop.run_forever()

    def close(self) -> None:
        """Close all connections and the event loop. The object can be used again."""
        if self._loop is not None:
            for pool in self._pools.values():
                pool.close()
            self.settle()
        self.reset()

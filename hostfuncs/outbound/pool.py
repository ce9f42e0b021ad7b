"""The connection pool of one policy: it hands connections to exchanges, bounds their number, and queues exchanges.

A connection is either taken, by one exchange or, if it can carry several at once, by more; or it is idle, in the order
of last use. The newest idle connection to an origin is used first, so that connections that are not needed grow old
and are closed. An exchange that finds neither an idle connection nor room for a new one waits in a queue. A connection
that becomes free goes to the first in the queue, and an idle connection to another origin makes room. So there are
never idle connections while an exchange waits.

All decisions are made in synchronous steps. Only `take` waits. A connection that is handed to an exchange that has
given up meanwhile is put back.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from hostfuncs.outbound.admission import Known
from hostfuncs.outbound.attempt import Connection
from hostfuncs.outbound.authority import Origin


class _Waiter:
    """An exchange in the queue."""

    __slots__ = ("given", "origin")

    def __init__(self, origin: Origin, given: asyncio.Future[Connection]) -> None:
        self.origin = origin
        self.given = given


class Pool:
    """A connection pool.

    Parameters:
        make: makes a connection to an origin, which is not connected yet.
        connections: the most connections; at least 1.
        idle_connections: the most of them that may be idle.
        new_future: makes the future of a waiting exchange.
        changed: called when a connection is made or closed, because the event loop must run for that to take effect.
    """

    def __init__(
        self,
        make: Callable[[Origin], Connection],
        *,
        connections: int,
        idle_connections: int,
        new_future: Callable[[], asyncio.Future[Connection]],
        changed: Callable[[], None],
    ) -> None:
        self._make = make
        self._most = connections
        self._most_idle = idle_connections
        self._new_future = new_future
        self._changed = changed
        self.known: Known = {}
        """The cache of what the policy admits. See `admission.Known`."""
        self._taken: dict[Connection, int] = {}
        self._idle: dict[Connection, None] = {}
        self._waiters: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        return f"<Pool {len(self._taken)} taken, {len(self._idle)} idle, {len(self._waiters)} waiting>"

    def __len__(self) -> int:
        return len(self._taken) + len(self._idle)

    @property
    def taken(self) -> int:
        """The number of connections that are taken."""
        return len(self._taken)

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """The number of exchanges in the queue."""
        return sum(not waiter.given.done() for waiter in self._waiters)

    async def take(self, origin: Origin) -> Connection:
        """Wait for a connection to an origin, and return it, connected or not. It must go back by `put`."""
        connection = self._find(origin)
        if connection is not None:
            return connection
        waiter = _Waiter(origin, self._new_future())
        self._waiters.append(waiter)
        try:
            return await waiter.given
        except BaseException:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            if waiter.given.done() and not waiter.given.cancelled():
                # The connection was handed over just when the exchange gave up.
                self.put(waiter.given.result())
            raise

    def put(self, connection: Connection) -> None:
        """Take a connection back. If it is in order, it is kept, or goes to an exchange that waits."""
        users = self._taken[connection] - 1
        if users:
            self._taken[connection] = users
        else:
            del self._taken[connection]
            if connection.idle():
                self._idle[connection] = None
                if len(self._idle) > 1 or not self._most_idle:
                    self._thin_out()
            else:
                self._close(connection)
        if self._waiters:
            self._hand_over()

    def close(self) -> None:
        """Close every connection, even those that are taken. Exchanges in the queue go on waiting."""
        for connection in (*self._idle, *self._taken):
            self._close(connection)
        self._idle.clear()

    def _find(self, origin: Origin) -> Connection | None:
        """Take and return a connection to an origin; None if there is neither one nor room for one."""
        for connection in list(reversed(self._idle)):
            if connection.origin == origin:
                del self._idle[connection]
                if not connection.stale():
                    self._taken[connection] = 1
                    return connection
                self._close(connection)
        for connection in self._taken:
            if connection.origin == origin and connection.shares():
                self._taken[connection] += 1
                return connection
        return self._find_room(origin)

    def _find_room(self, origin: Origin) -> Connection | None:
        for connection in [connection for connection in self._idle if connection.stale()]:
            del self._idle[connection]
            self._close(connection)
        if len(self) >= self._most:
            if not self._idle:
                return None
            self._drop_oldest()
        connection = self._make(origin)
        self._taken[connection] = 1
        self._changed()
        return connection

    def _hand_over(self) -> None:
        """Hand connections to the queue in order, except that a shared connection goes to all that it can serve."""
        for waiter in list(self._waiters):
            if waiter.given.done():
                self._waiters.remove(waiter)
                continue
            connection = self._find(waiter.origin)
            if connection is not None:
                self._waiters.remove(waiter)
                waiter.given.set_result(connection)

    def _thin_out(self) -> None:
        """Close idle connections beyond the limit, and the oldest one if it is stale."""
        while len(self._idle) > self._most_idle:
            self._drop_oldest()
        oldest = next(iter(self._idle), None)
        if oldest is not None and oldest.stale():
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._idle))
        del self._idle[oldest]
        self._close(oldest)

    def _close(self, connection: Connection) -> None:
        connection.close()
        self._changed()

"""The connections of one policy: who gets which, how many there may be, and who waits for one.

A connection is in one of two places: taken, by one exchange or, where it carries several at once, by more; or idle, in
the order of last use. The newest idle one for an origin is used first, so that what is not needed grows old and goes.
Whoever finds neither an idle connection nor room for a new one waits; what becomes free goes to the first in line, and
an idle connection to another origin makes room. So there are never idle connections while somebody waits.

Everything is decided in synchronous steps; nothing here waits but `take`, and what is handed over to somebody who has
given up meanwhile comes back.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from hostfuncs.outbound.admission import Known
from hostfuncs.outbound.attempt import Connection
from hostfuncs.outbound.authority import Origin


class _Waiter:
    """Somebody in line."""

    __slots__ = ("given", "origin")

    def __init__(self, origin: Origin, given: asyncio.Future[Connection]) -> None:
        self.origin = origin
        self.given = given


class Pool:
    """See the module.

    Parameters:
        make: makes a connection to an origin, not yet standing.
        connections: how many there may be; at least 1.
        idle_connections: of these, how many may be idle.
        new_future: makes what a waiter waits on.
        changed: called when a connection is made or closed: the loop has to run for it to have its effect.
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
        """What the policy admits; see there."""
        self._taken: dict[Connection, int] = {}
        self._idle: dict[Connection, None] = {}
        self._waiters: deque[_Waiter] = deque()

    def __repr__(self) -> str:
        return f"<Pool {len(self._taken)} taken, {len(self._idle)} idle, {len(self._waiters)} waiting>"

    def __len__(self) -> int:
        return len(self._taken) + len(self._idle)

    @property
    def taken(self) -> int:
        """Return how many connections somebody has."""
        return len(self._taken)

    @property
    def idle(self) -> int:
        """Return how many connections nobody has."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Return how many are in line."""
        return sum(not waiter.given.done() for waiter in self._waiters)

    async def take(self, origin: Origin) -> Connection:
        """Return a connection to an origin, standing or not; waits for its turn. To be given back with `put`."""
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
                # It was handed over just when its waiter gave up.
                self.put(waiter.given.result())
            raise

    def put(self, connection: Connection) -> None:
        """Take a connection back: it is kept if it is in order, and goes to whoever waits."""
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
        """Close every connection, those that are taken too. Who waits goes on waiting."""
        for connection in (*self._idle, *self._taken):
            self._close(connection)
        self._idle.clear()

    def _find(self, origin: Origin) -> Connection | None:
        """A connection for a newcomer or the first in line, taken; None if there is neither one nor room for one."""
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
        """Serve who waits, first come, first served, except that a shared connection serves whoever it can."""
        for waiter in list(self._waiters):
            if waiter.given.done():
                self._waiters.remove(waiter)
                continue
            connection = self._find(waiter.origin)
            if connection is not None:
                self._waiters.remove(waiter)
                waiter.given.set_result(connection)

    def _thin_out(self) -> None:
        """Close what is idle beyond the limit, and the oldest if its time is over."""
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

"""The open connections of an HTTP server, and the bounds that keep callers from filling the process with them.

Both HTTP servers report their connections here. Four things are bounded: how many there are, in all and of one peer;
how long and how slowly a response may be left unread; how much of all responses is held for callers; and, as far as a
server cannot bound them by itself, how long heads and bodies of requests may take.
"""

import ipaddress
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from sandboxd.front.http.auth import is_probe
from sandboxd.front.http.replies import reply_plain_error
from sandboxd.front.http.trace_headers import refused as traced
from sandboxd.front.ports import Asgi, Receive, Scope, Send
from sandboxd.front.servers.refusals import Refusal, Refusals

SWEEP_S: Final = 0.5
"""Pause between looks at all connections."""
RESERVE: Final = 16
"""Connections beyond the limit that are taken for probes and scrapes, and answered with 503 if they ask for more."""
LARGE_BYTES: Final = 64 * 1024
"""Responses from this size on are told at once, by `Connections.wrote`."""
_NEW_S: Final = 1.0
"""A response is not judged by its pace before it is this old."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallerLimits:
    """The limits of one caller and of all callers."""

    head_timeout_s: float = 10.0
    """The longest time for a request head."""
    body_timeout_s: float = 30.0
    """The longest pause within a request's body."""
    send_timeout_s: float = 30.0
    """The longest time in which a caller reads nothing of a response that is ready."""
    min_rate: int = 1024
    """The least pace of bodies and responses after these times, in bytes per second; 0 for any."""
    max_connections: int = 1024
    """Open connections in all."""
    max_per_peer: int = 768
    """Open connections of one address (IPv6: of one network of 64 bits)."""
    max_unread_bytes: int = 256 * 1024 * 1024
    """Bytes of responses that are held for callers, in all; and for one connection, if it has several responses."""


class Connection(Protocol):
    """An open connection, as `Connections` uses it. Instants are of CLOCK_MONOTONIC, in seconds."""

    peer: str
    """Address of the caller; empty on a Unix socket, where all are bounded together."""

    def idle_since(self) -> float | None:
        """Since when it has waited for a whole request head; None while a request is under way."""

    def overdue(self, now: float) -> Refusal | None:
        """Return why it is to be cut, if it has owed something for too long. Idle ones close themselves."""

    def unread(self) -> int:
        """The number of bytes of responses that are held for it."""

    def sent(self) -> int:
        """The number of bytes of all its responses that the kernel has taken."""

    def close(self) -> None:
        """Close it; what is held for it is sent."""

    def abort(self) -> None:
        """Close it at once."""


class _Pace:
    """The pace at which a caller reads what is held for it."""

    __slots__ = ("_began", "_moved", "_sent", "_sent_first")

    def __init__(self, now: float, sent: int) -> None:
        self._began = self._moved = now
        self._sent = self._sent_first = sent

    def overdue(self, now: float, sent: int, limits: CallerLimits) -> bool:
        if sent > self._sent:
            self._sent, self._moved = sent, now
        if now - self._moved > limits.send_timeout_s:
            return True
        graced = now - self._began - limits.send_timeout_s
        return graced * limits.min_rate > sent - self._sent_first

    def seconds_left(self, now: float, sent: int, unread: int) -> float:
        """The time that the rest will take at the pace so far; 0 if that is not known yet."""
        passed = now - self._began
        return unread * passed / (sent - self._sent_first + 1) if passed >= _NEW_S else 0.0


class Connections:
    """See the module. All of it happens on one event loop.

    Parameters:
        limits: of callers.
        refusals: told of callers that are turned away.
    """

    def __init__(self, limits: CallerLimits, refusals: Refusals) -> None:
        self.limits = limits
        self._refusals = refusals
        # Workers, files and sockets of the server need descriptors, too.
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = limits.max_connections
        if descriptors != resource.RLIM_INFINITY:
            room = min(room, max(RESERVE, descriptors * 3 // 4 - RESERVE))
        self._most = room
        self._per_peer = min(limits.max_per_peer, room)
        self._open: dict[Connection, None] = {}
        self._peers: dict[str, int] = {}
        self._reserve: dict[Connection, None] = {}
        self._paces: dict[Connection, _Pace] = {}

    def __repr__(self) -> str:
        return f"<Connections {len(self._open)} open, {len(self._reserve)} in reserve>"

    def all(self) -> list[Connection]:
        """Those that are open now."""
        return [*self._open, *self._reserve]

    def enter(self, connection: Connection) -> bool:
        """A connection was accepted. Where there is no room, the one that has been idle for longest is closed.

        Returns:
            False: none is idle; this one is taken for probes only, see `probes_only`.
        """
        peer = _network(connection.peer)
        if peer and self._peers.get(peer, 0) >= self._per_peer:
            admitted = self._make_room(other for other in self._open if _network(other.peer) == peer)
        elif len(self._open) >= self._most:
            admitted = self._make_room(self._open)
        else:
            admitted = True
        if admitted:
            self._open[connection] = None
            self._peers[peer] = self._peers.get(peer, 0) + 1
            return True
        if len(self._reserve) >= RESERVE:
            oldest = next(iter(self._reserve))
            self.leave(oldest)
            oldest.abort()
            self._refusals.add(Refusal.CONNECTIONS)
        self._reserve[connection] = None
        return False

    def leave(self, connection: Connection) -> None:
        """A connection was closed."""
        self._paces.pop(connection, None)
        if connection in self._open:
            del self._open[connection]
            peer = _network(connection.peer)
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
        else:
            self._reserve.pop(connection, None)

    def _make_room(self, candidates: Iterable[Connection]) -> bool:
        least, since = None, float("inf")
        for connection in candidates:
            idle = connection.idle_since()
            if idle is not None and idle < since:
                least, since = connection, idle
        if least is None:
            return False
        self.leave(least)
        self._refusals.add(Refusal.CONNECTIONS)
        least.close()
        return True

    def wrote(self, connection: Connection) -> None:
        """A large part of a response was handed over; the kernel may not have taken it all."""
        if connection not in self._paces:
            self._paces[connection] = _Pace(time.monotonic(), connection.sent())
        self._bound_unread()

    def sweep(self) -> None:
        """Look at all connections. Call every `SWEEP_S`."""
        now = time.monotonic()
        for connection in self.all():
            refusal = connection.overdue(now)
            if refusal is None and connection.unread():
                pace = self._paces.setdefault(connection, _Pace(now, connection.sent()))
                if pace.overdue(now, connection.sent(), self.limits):
                    refusal = Refusal.SEND_TIMEOUT
            elif refusal is None:
                self._paces.pop(connection, None)
            if refusal is not None:
                self.cut(connection, refusal)
        self._bound_unread()

    def _bound_unread(self) -> None:
        """Cut callers off until what is held is within its bound: those first that would read on for longest.

        Those that have only begun to read are spared up to twice the bound.
        """
        most = self.limits.max_unread_bytes
        held = {connection: connection.unread() for connection in self._paces}
        total = sum(held.values())
        if total <= most:
            return
        now = time.monotonic()
        left = {c: self._paces[c].seconds_left(now, c.sent(), unread) for c, unread in held.items()}
        for connection in sorted(held, key=lambda c: (left[c], held[c]), reverse=True):
            if total <= most or (not left[connection] and total <= 2 * most):
                return
            total -= held[connection]
            self.cut(connection, Refusal.UNREAD)

    def cut(self, connection: Connection, refusal: Refusal) -> None:
        """Close a connection at once, for a reason that is counted."""
        self._refusals.add(refusal)
        self.leave(connection)
        connection.abort()


def _network(address: str) -> str:
    """Return the identity of a peer: an IPv4 address, or the 64 bits of an IPv6 address that a provider hands out."""
    if ":" not in address:
        return address
    found = ipaddress.IPv6Address(address.partition("%")[0])
    mapped = found.ipv4_mapped
    return str(mapped) if mapped is not None else str(found.packed[:8])


def probes_only(app: Asgi, refused: Callable[[Refusal], None]) -> Asgi:
    """The application as connections see it that are in reserve.

    Parameters:
        app: the application.
        refused: called for each request that is not a probe.
    """

    async def reserved(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_probe(scope):
            await app(scope, receive, send)
            return
        refused(Refusal.CONNECTIONS)
        last = [] if scope["http_version"].startswith("2") else [(b"connection", b"close")]
        text = "there are too many connections"
        await reply_plain_error(send, 503, text, [(b"retry-after", b"1"), *last, *traced(scope, 503, text)])

    return reserved

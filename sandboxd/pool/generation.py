"""A generation: one set of guests, the zygote that loaded them, and the workers forked from it.

A reload makes a new generation beside the serving one and swaps; the old one finishes what it has begun.
"""

import socket
from typing import TYPE_CHECKING

from sandboxd.wire import messages as m
from sandboxd.zygote.client import ZygoteClient

if TYPE_CHECKING:
    from sandboxd.pool.maintenance import Maintenance
    from sandboxd.pool.worker import Worker

SHORT_NS = 500_000
"""A binding whose recent runs were shorter than this may be sent ahead to a busy worker."""
LONG_NS = 4 * SHORT_NS
"""One run as long as this ends that at once."""


class GuestEntry:
    """What the pool knows of one binding in one generation.

    Parameters:
        index: its place in the zygote's list.
        binding: its name.
        limit: workers it may hold.
        why_failed: text if the zygote could not load it, else empty.
        short_limit: invocations sent at once, those in look-ahead included; 0 means as `limit`.
    """

    __slots__ = ("average_ns", "binding", "held", "index", "limit", "running", "short_limit", "why_failed")

    def __init__(self, index: int, binding: str, limit: int, why_failed: str = "", short_limit: int = 0) -> None:
        self.index = index
        self.binding = binding
        self.limit = limit
        self.short_limit = short_limit or limit
        self.why_failed = why_failed
        self.running = 0
        """Invocations sent."""
        self.held = 0
        """Workers they were sent to."""
        self.average_ns = float(SHORT_NS)

    def __repr__(self) -> str:
        return f"<GuestEntry {self.binding} held={self.held}/{self.limit} average={self.average_ns / 1e3:.0f}us>"

    @property
    def short(self) -> bool:
        """True if its recent runs were so short that waiting in a busy worker's socket beats waiting here."""
        return self.average_ns < SHORT_NS

    @property
    def free(self) -> int:
        """How many more workers it may be sent to."""
        return min(self.limit - self.held, self.short_limit - self.running)

    @property
    def has_room(self) -> bool:
        """True if one more worker may be given to it."""
        return self.held < self.limit and self.running < self.short_limit

    def may_follow(self, worker: "Worker") -> bool:
        """True if one more may be sent to a busy worker, there to wait for its turn. A guest that was always quick may
        hang the next time: so this too gives it no worker beyond its limit."""
        if not self.short or self.running >= self.short_limit:
            return False
        return self.held < self.limit or self.binding in worker.holding

    def observe(self, took_ns: int) -> None:
        """Take a run's duration into the average. One long run ends look-ahead at once; short ones restore it."""
        if took_ns >= LONG_NS:
            self.average_ns = float(took_ns)
        else:
            self.average_ns += (took_ns - self.average_ns) * 0.2


class Generation:
    """One zygote and its workers.

    Parameters:
        number: counts up from 1 with every reload.
        load: what the zygote is given.
        limits: by binding name, the workers it may hold and the invocations that may be sent at once.
        maintenance: is told of every event.
    """

    def __init__(
        self, number: int, load: m.Load, limits: dict[str, tuple[int, int]], maintenance: "Maintenance"
    ) -> None:
        self.number = number
        self.entries: dict[str, GuestEntry] = {}
        self.workers: dict[int, Worker] = {}
        self.client = ZygoteClient(self)
        self.boot_failures = 0
        """Workers in a row that did not get up."""
        self.retiring = False
        self.lost = False
        self._load = load
        self._limits = limits
        self._maintenance = maintenance

    def __repr__(self) -> str:
        return f"<Generation {self.number} guests={len(self.entries)} workers={len(self.workers)}>"

    async def start(self) -> tuple[tuple[str, str], ...]:
        """Start the zygote and load the guests.

        Returns:
            (binding, why) for each guest that could not be loaded.

        Raises:
            ZygoteError: no guest can be run at all.
        """
        loaded = await self.client.start(self._load)
        failed = dict(loaded.failed)
        for index, spec in enumerate(self._load.guests):
            name = spec.binding
            limit, short_limit = self._limits[name]
            self.entries[name] = GuestEntry(index, name, limit, failed.get(name, ""), short_limit)
        return loaded.failed

    def runs(self, binding: str) -> bool:
        """True if it has this guest and could load it."""
        entry = self.entries.get(binding)
        return entry is not None and not entry.why_failed

    # ZygoteEvents -----------------------------------------------------------------------------------------------------

    def on_spawned(self, serial: int, pid: int, channel: socket.socket, page_fd: int, pidfd: int) -> None:
        self._maintenance.on_spawned(self, serial, pid, channel, page_fd, pidfd)

    def on_spawn_failed(self, serial: int, detail: str) -> None:
        self._maintenance.on_spawn_failed(self, serial, detail)

    def on_spawned_in_vain(self, serial: int, pid: int) -> None:
        self._maintenance.on_spawned_in_vain(self, serial, pid)

    def on_exited(self, serial: int, status: int) -> None:
        self._maintenance.on_exited(self, serial, status)

    def on_zygote_lost(self) -> None:
        self.lost = True
        self._maintenance.on_zygote_lost(self)

"""Spare workers: more than the pool keeps, for bindings that wait while another one holds more than its share.

A binding may run at every idle worker, so that no processor idles while somebody waits. What its share protects is the
next worker for the others: what is held beyond the share is borrowed, and for each borrowed worker one more may be
forked as soon as another binding, which is within its own share, waits. A fork takes 3 ms and 2 MiB.

    held by one binding          the others find
    up to its share              the workers that are left, as many as the share leaves them
    more than its share          those that are left, and a spare one for each that is borrowed

So whoever is within its share waits for a fork at the most, and never for a guest of the one that borrowed. Spare
workers are not lent: a binding beyond its share runs at no more workers than the pool keeps.
"""

import asyncio
import time
from typing import Final, Protocol

from sandboxd.pool.generation import GuestEntry

KEEP_S: Final = 5.0
"""Spare workers end so long after nothing was borrowed any more."""
CHECK_S: Final = 1.0
"""The interval at which that is looked at, while there are any."""
AFTER_FAILURE_S: Final = 10.0
"""No spare worker is forked for so long after one did not start: the machine may be out of processes or memory."""


class SpareProcesses(Protocol):
    """Starts and ends spare workers."""

    def surplus(self) -> int:
        """Return how many workers there are beyond those that the pool keeps, those that start included."""

    def starting(self) -> int:
        """Return how many workers start."""

    def spawn_spare(self) -> None:
        """Start a worker beyond those that the pool keeps."""

    def retire_surplus(self) -> None:
        """Let so many workers end as there are beyond those that the pool keeps. Each finishes what it has."""


class Spares:
    """Decides how many spare workers there are. It runs on the pool's event loop, in synchronous steps.

    Parameters:
        processes: starts and ends them.
    """

    def __init__(self, processes: SpareProcesses) -> None:
        self._processes = processes
        self.started = 0
        """The number of spare workers that were asked for."""
        self._borrowers: set[GuestEntry] = set()
        self._blocked_until = 0.0
        self._needed_at = 0.0
        self._checking = False

    def __repr__(self) -> str:
        return f"<Spares {self._processes.surplus()} for {self.borrowed()} borrowed>"

    def note(self, entry: GuestEntry) -> None:
        """Take note of a binding that holds more than its share."""
        self._borrowers.add(entry)

    def forget(self) -> None:
        """Forget the bindings of a generation that serves no more. Its workers end by themselves."""
        self._borrowers.clear()

    def borrowed(self) -> int:
        """Return how many workers are held beyond shares."""
        if not self._borrowers:
            return 0
        over = [(entry, entry.held - entry.share) for entry in self._borrowers]
        self._borrowers = {entry for entry, held in over if held > 0}
        return sum(held for _, held in over if held > 0)

    def short(self) -> bool:
        """Return whether all that is borrowed will be free so soon that a fork would come too late."""
        return all(entry.short for entry in self._borrowers)

    def provide(self, waiting: int) -> None:
        """Start spare workers, if any are missing.

        Parameters:
            waiting: the invocations that wait although their bindings are within their shares.
        """
        borrowed = self.borrowed()
        now = time.monotonic()
        if not borrowed or now < self._blocked_until:
            return
        self._needed_at = now
        # Those that start will take what waits; asking again would fork one more for the same invocation.
        for _ in range(min(waiting - self._processes.starting(), borrowed - self._processes.surplus())):
            self.started += 1
            self._processes.spawn_spare()
        if not self._checking:
            self._checking = True
            asyncio.get_running_loop().call_later(CHECK_S, self._check)

    def failed(self) -> None:
        """Take note that a spare worker did not start."""
        self._blocked_until = time.monotonic() + AFTER_FAILURE_S

    def _check(self) -> None:
        now = time.monotonic()
        if self.borrowed():
            self._needed_at = now
        elif now - self._needed_at >= KEEP_S:
            self._processes.retire_surplus()
        if self._processes.surplus() > 0:
            asyncio.get_running_loop().call_later(CHECK_S, self._check)
        else:
            self._checking = False

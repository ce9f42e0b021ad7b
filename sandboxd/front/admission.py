"""Refusing requests while too many wait for a worker, without neglecting those that were taken.

A front refuses a request hardly faster than it answers one. If it refused at once whatever comes while the queue is
full, callers that come back at once would take its whole time: finished results would lie unread in the workers'
sockets, and the workers would stand still. So a request that finds no room waits at the gate, its body unread; the
newest of those that wait is let in as soon as there is room, and the oldest of each binding in turn is refused, as far
as the event loop has time for that: all the time it would have slept, and a part of the time it runs, which is small
while guests run so briefly that the workers wait for the front. A loop that is not busy refuses within a millisecond or
two. One that is, answers as many requests as it can, and lets the others wait on their connections, which is what slows
their callers down.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections import OrderedDict, deque
from typing import Final, Protocol

from sandboxd.log import fields
from sandboxd.pool.errors import Rejected

log = logging.getLogger("sandboxd.request")

TICK_S: Final = 0.001
SHARE: Final = 0.5
"""Part of the loop's running time that refusals may take though it is needed for other things."""
SHARE_BRISK: Final = 0.1
"""The same while guests run briefly: then workers do nothing in each moment in which results lie unread."""
REFUSAL_NS: Final = 120_000
"""What one refusal costs, from reading the request to closing the books; on the safe side."""
SAVED_NS: Final = 50_000_000
"""So much unused time may be saved up for a burst."""
REPORT_S: Final = 1.0
"""Refusals are logged as a number, at most once in this time."""


class Room(Protocol):
    """What the gate asks of the pool."""

    def room(self, binding: str) -> int:
        """How many further invocations of a binding would be taken now."""
        ...

    def brisk(self) -> bool:
        """Whether guests run so briefly that workers soon wait for the front."""
        ...

    def turn_away(self) -> Rejected:
        """Count a refusal for want of room; the error to answer it with."""
        ...


class Gate:
    """Where requests wait that find no room. All of it happens on one event loop.

    Parameters:
        pool: knows whether there is room.
    """

    def __init__(self, pool: Room) -> None:
        self._room = pool.room
        self._brisk = pool.brisk
        self._turn_away = pool.turn_away
        # By binding, each in order of arrival; the bindings in the order in which they are refused next.
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._spare = _SpareTime()
        self._ticking = False
        self._unreported = 0
        self._reported = 0.0

    def __repr__(self) -> str:
        return f"<Gate {sum(map(len, self._lines.values()))} waiting>"

    def close(self) -> None:
        """Give back what the gate holds of the system. Call when no request comes any more."""
        self._spare.close()

    def shut(self, binding: str) -> bool:
        """Whether a request of this binding must `enter` before it is looked at."""
        return self._room(binding) <= 0

    async def enter(self, binding: str) -> None:
        """Wait for room.

        Raises:
            Rejected: there will be none soon.
        """
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        line = self._lines.get(binding)
        if line is None:
            line = self._lines[binding] = deque()
        line.append(turn)
        if not self._ticking:
            self._ticking = True
            self._spare.start()
            loop.call_later(TICK_S, self._tick)
        await turn

    def _tick(self) -> None:
        for binding, line in list(self._lines.items()):
            self._let_in(line, self._room(binding))
            if not line:
                del self._lines[binding]
        affordable = self._spare.affordable(SHARE_BRISK if self._brisk() else SHARE)
        while affordable > 0 and self._lines:
            binding, line = next(iter(self._lines.items()))
            turn = line.popleft()
            if line:
                self._lines.move_to_end(binding)
            else:
                del self._lines[binding]
            if not turn.done():
                turn.set_exception(self._turn_away())
                self._spare.spend()
                self._unreported += 1
                affordable -= 1
        self._report()
        loop = asyncio.get_running_loop()
        if self._lines:
            loop.call_later(TICK_S, self._tick)
        else:
            self._ticking = False
            if self._unreported:
                loop.call_later(REPORT_S, self._report)

    def _let_in(self, line: "deque[asyncio.Future[None]]", room: int) -> None:
        while room > 0 and line:
            turn = line.pop()
            if not turn.done():
                turn.set_result(None)
                room -= 1

    def _report(self) -> None:
        now = time.monotonic()
        if self._unreported and now - self._reported >= REPORT_S:
            log.warning("requests were refused: too many wait for a worker", extra=fields(count=self._unreported))
            self._reported, self._unreported = now, 0


class _SpareTime:
    """How much time the event loop's thread has for refusals: what it slept, and a share of what it ran."""

    def __init__(self) -> None:
        self._saved_ns = 0
        self._read: tuple[int, int, int] = (0, 0, 0)
        self._refused = 0
        self._schedstat = -1
        with contextlib.suppress(OSError):
            # Absent where the kernel keeps no such statistics; then waiting for a processor counts as sleep.
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"<_SpareTime {self._saved_ns / 1e6:.1f} ms>"

    def start(self) -> None:
        """Begin a time of refusing."""
        self._read = self._now()
        self._refused = 0

    def affordable(self, share: float) -> int:
        """How many refusals there is time for now.

        Parameters:
            share: of the time it ran.
        """
        now, run, delayed = self._now()
        then, had_run, had_been_delayed = self._read
        passed, ran = now - then, run - had_run
        slept = passed - ran - (delayed - had_been_delayed)
        gained = slept + int(share * ran)
        if slept > SHARE_BRISK * passed:
            # It sleeps in spite of the last refusals, so it has the time for as many again.
            gained += self._refused * REFUSAL_NS
        self._saved_ns = min(self._saved_ns + max(0, gained), SAVED_NS)
        self._read = (now, run, delayed)
        self._refused = 0
        return self._saved_ns // REFUSAL_NS

    def spend(self) -> None:
        """One request was refused."""
        self._saved_ns -= REFUSAL_NS
        self._refused += 1

    def close(self) -> None:
        """Close the statistics."""
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    def _now(self) -> tuple[int, int, int]:
        """This instant, and how long this thread has run and has waited for a processor. Nanoseconds."""
        delayed = 0
        if self._schedstat >= 0:
            # "time run, time waited, slices"; the first is brought up to date too rarely.
            delayed = int(os.pread(self._schedstat, 96, 0).split()[1])
        return time.monotonic_ns(), time.thread_time_ns(), delayed

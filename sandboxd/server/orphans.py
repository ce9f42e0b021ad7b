"""Processes that lost their parent below this server: adopted, reaped, and ended with it.

Linux gives an orphan to the nearest ancestor that asked for them (prctl(2), PR_SET_CHILD_SUBREAPER), else to process 1.
Without that, the workers of a lost zygote, and what a worker without a wall has forked, would outlive the server.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Final

from sandboxd.log import fields
from sandboxd.wall import confinement

log = logging.getLogger("sandboxd")

REAP_S: Final = 10.0
"""The interval at which dead children are looked for. One that was there the time before is reaped: nobody waits for
it. What this process has started itself is waited for by whoever started it, and much sooner."""
END_S: Final = 5.0
"""The longest time that ending the last orphans may take."""
_ZOMBIE: Final = "Z"


class Orphans:
    """The orphans below this process. Made before it starts any.

    Children that exist already belong to somebody else: a script that started them and then became this process.
    """

    def __init__(self) -> None:
        confinement.adopt_orphans()
        self._inherited = frozenset(pid for pid, _ in _children())
        self._dead_before: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<Orphans beside {len(self._inherited)} inherited children>"

    async def keep_reaping(self) -> None:
        """Reap orphans that have died, until cancelled."""
        while True:
            await asyncio.sleep(REAP_S)
            self.reap()

    def reap(self) -> None:
        """Reap the children that were dead at the last call already."""
        dead = frozenset(pid for pid, state in _children() if state == _ZOMBIE)
        for pid in dead & self._dead_before:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._dead_before = dead

    def end(self) -> None:
        """Kill and reap everything that is left. Call it when whatever this process has started has ended."""
        until = time.monotonic() + END_S
        killed = 0
        while (left := [pid for pid, _ in _children() if pid not in self._inherited]) and time.monotonic() < until:
            for pid in left:
                killed += _end(pid, until)
        if killed:
            log.warning("processes that had lost their parent were killed", extra=fields(event="orphans", count=killed))


def _end(pid: int, until: float) -> int:
    """Kill and reap a child. Return 1 if it was alive."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        alive = not select.select([pidfd], [], [], 0)[0]
        if alive:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [], max(0.0, until - time.monotonic()))
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        return int(alive)
    finally:
        os.close(pidfd)


def _children() -> Iterator[tuple[int, str]]:
    """Yield each child's process id and state, as in proc(5)."""
    own = str(os.getpid())
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                text = file.read().decode("ascii", "replace")
        except OSError:
            continue  # it has just ended, or is not shown to this user
        # The name of the program stands in parentheses, and may contain any character.
        state, parent = text.rpartition(")")[2].split()[:2]
        if parent == own:
            yield int(name), state

"""Polling for a moment instead of sleeping, while requests come one at a time.

An invocation crosses to a worker and back. Where both sides sleep, that is two processors to be woken from their idle
state, which on a virtual machine costs more than the rest of a brief invocation. While exactly one is in flight there
is most likely a processor to spare for either side, so they look instead of sleeping: the front for the result of a
guest that takes little time, the worker for the next frame if the last one came soon. Either side stops where that does
not pay: because what it waits for comes too late, or because others want the processor.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sandboxd.payoff import Payoff
from sandboxd.pool.generation import GuestEntry
from sandboxd.wire import messages as m

FRONT_NS: Final = 150_000
"""The front looks for a result at most this long."""
QUICK_NS: Final = 60_000
"""Only guests whose recent runs were shorter than this are waited for so."""
WORKER_NS: Final = 500_000
"""A worker looks for its next frame at most this long; and only if the last came within this time."""


class Polling:
    """Says when to poll, and does it on the front's side. Asked only about invocations that are alone in flight.

    Parameters:
        enabled: False for machines without a processor to spare.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._quiet_since_ns = 0
        self._payoff = Payoff()

    def __repr__(self) -> str:
        return f"<Polling {'on' if self._enabled else 'off'} {self._payoff!r}>"

    def quiet(self, now_ns: int) -> None:
        """Nothing is in flight any more."""
        self._quiet_since_ns = now_ns

    def worker_ns(self, now_ns: int) -> int:
        """How long the worker that gets an invocation now is to poll after it. Nanoseconds; 0: not at all."""
        return WORKER_NS if self._enabled and now_ns - self._quiet_since_ns < WORKER_NS else 0

    def watch(self, future: asyncio.Future[m.Result], entry: GuestEntry, now_ns: int) -> None:
        """Keep the event loop awake until the result is there, if that will not take long."""
        if self._enabled and entry.average_ns < QUICK_NS and self._payoff.worth_trying():
            loop = future.get_loop()
            loop.call_soon(self._look, loop, future, now_ns + FRONT_NS)

    def _look(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[m.Result], until_ns: int) -> None:
        if time.monotonic_ns() >= until_ns:
            self._payoff.failed()
        elif future.done():
            self._payoff.succeeded()
        else:
            # A loop with something to do looks at its sockets without waiting for them.
            loop.call_soon(self._look, loop, future, until_ns)

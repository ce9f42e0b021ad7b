"""Busy polling: while requests come one at a time, both sides poll for a moment instead of sleeping.

An invocation goes to a worker and back. If both sides sleep, two processors must be woken from their idle state, which
on a virtual machine costs more than the rest of a short invocation. While exactly one invocation is in flight, each
side most likely has a processor to spare. So the front polls for the result of a guest whose runs are short, and the
worker polls for the next frame if the last one came soon. Either side stops polling while it does not pay: because the
result or frame comes too late, or because other processes need the processor.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from sandboxd.pool.generation import GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.wire.adaptive_gate import AdaptiveGate

FRONT_NS: Final = 150_000
"""The longest time that the front polls for a result."""
QUICK_NS: Final = 60_000
"""The front polls only for guests whose recent runs were shorter than this."""
WORKER_NS: Final = 500_000
"""The longest time that a worker polls for its next frame, and only if the last one came within this time."""


class Polling:
    """Decides when to poll, and polls on the front's side. Ask it only about an invocation that is alone in flight.

    Parameters:
        enabled: False on machines without a processor to spare.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._quiet_since_ns = 0
        self._gate = AdaptiveGate()

    def __repr__(self) -> str:
        return f"<Polling {'on' if self._enabled else 'off'} {self._gate!r}>"

    def quiet(self, now_ns: int) -> None:
        """Record that nothing is in flight any more."""
        self._quiet_since_ns = now_ns

    def worker_ns(self, now_ns: int) -> int:
        """Return the time for which a worker that is sent an invocation now polls after it, in ns; 0 for no polling."""
        return WORKER_NS if self._enabled and now_ns - self._quiet_since_ns < WORKER_NS else 0

    def watch(self, invocation: Invocation, entry: GuestEntry, now_ns: int) -> None:
        """Keep the event loop from sleeping until the result arrives, if that is expected soon."""
        if self._enabled and entry.average_ns < QUICK_NS and self._gate.allow():
            loop = asyncio.get_running_loop()
            loop.call_soon(self._look, loop, invocation, now_ns + FRONT_NS)

    def _look(self, loop: asyncio.AbstractEventLoop, invocation: Invocation, until_ns: int) -> None:
        if time.monotonic_ns() >= until_ns:
            self._gate.failed()
        elif invocation.over:
            self._gate.succeeded()
        else:
            # While callbacks are pending, the event loop checks its sockets without waiting for them.
            loop.call_soon(self._look, loop, invocation, until_ns)

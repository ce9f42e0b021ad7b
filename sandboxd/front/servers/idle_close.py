"""The end of an HTTP server in steps: the end of accepting, of idle connections, and of those that are left.

Between the first two, callers are waited for to close their connections themselves.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

STOP_MARGIN_S: Final = 1.0
"""After the last answer, this is left for answers on their way out; then connections are cut."""

SWEEP_S: Final = 0.02
QUIET_SWEEPS: Final = 5
"""A connection that the kernel handed over at the last moment shows only a few turns of the loop later."""


async def wait_until_closed(
    connected: Callable[[], bool], seconds: float, sweep: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Wait until no caller is connected any more.

    Parameters:
        connected: returns whether a caller is connected.
        seconds: the longest time to wait.
        sweep: called every SWEEP_S seconds meanwhile.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    quiet = 0
    while quiet < QUIET_SWEEPS and loop.time() < end:
        if sweep is not None:
            await sweep()
        quiet = 0 if connected() else quiet + 1
        await asyncio.sleep(SWEEP_S)


@dataclass(frozen=True, slots=True)
class Ending:
    """When each step of the end begins."""

    stop: asyncio.Event
    """Set: nothing is accepted any more."""
    idle_close_s: float
    """How long idle connections are read after that."""
    answered: asyncio.Event
    """Set: every request that is left was answered, or will not be. Nothing is cut before."""


async def wait_for_answers(answered: asyncio.Event, connected: Callable[[], bool]) -> None:
    """Wait until connections may be cut: `answered` is set, and answers had time to go out.

    Parameters:
        answered: see `Ending`.
        connected: returns whether a caller is connected. If none is, this returns at once.
    """
    waiting = asyncio.create_task(answered.wait())
    try:
        while connected() and not waiting.done():
            await asyncio.wait({waiting}, timeout=SWEEP_S)
    finally:
        waiting.cancel()
    if connected():
        await wait_until_closed(connected, STOP_MARGIN_S)

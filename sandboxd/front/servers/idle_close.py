"""The wait for callers to close their connections, between the end of accepting and the closing of idle connections."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

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

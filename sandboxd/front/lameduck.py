"""The time between the end of accepting and the end of idle connections."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

SWEEP_S: Final = 0.02
QUIET_SWEEPS: Final = 5
"""A connection that the kernel handed over at the last moment shows only a few turns of the loop later."""


async def lame_duck(
    connected: Callable[[], bool], seconds: float, sweep: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Wait until nobody is connected any more.

    Parameters:
        connected: whether somebody is.
        seconds: the longest time.
        sweep: done again and again meanwhile.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    quiet = 0
    while quiet < QUIET_SWEEPS and loop.time() < end:
        if sweep is not None:
            await sweep()
        quiet = 0 if connected() else quiet + 1
        await asyncio.sleep(SWEEP_S)

"""Ends processes of this package without standing still for them."""

import asyncio
import subprocess


async def ended(process: "subprocess.Popen[bytes]", within_s: float) -> int:
    """Wait for the end of a process that was told to end, and reap it; kill it if it takes too long.

    Parameters:
        process: it.
        within_s: the time after which it is killed.

    Returns:
        its exit status; negative for a signal.
    """
    try:
        return await asyncio.to_thread(process.wait, within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return await asyncio.to_thread(process.wait)

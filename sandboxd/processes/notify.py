"""Tells systemd how the server is: sd_notify(3), without libsystemd. Nothing happens where no service manager asks."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


class Notifier:
    """Sends states to the service manager.

    Parameters:
        environ: NOTIFY_SOCKET names its socket; WATCHDOG_USEC is how often it wants to hear, in microseconds, from the
            process WATCHDOG_PID.
        pid: this process's id.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the NUL of an abstract address.
        self._address = "\0" + path[1:] if path.startswith("@") else path
        period = environ.get("WATCHDOG_USEC", "")
        wanted = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._period_s = int(period) / 1e6 if wanted and period.isdecimal() else 0.0

    def tell(self, *states: str) -> None:
        """Send states such as READY=1. A service manager that does not listen keeps nothing from going on."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(states).encode(), self._address)

    def reloading(self) -> None:
        """Tell that a reload has begun; READY ends it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    async def keep_alive(self) -> None:
        """Tell that the event loop runs, twice in each period of the watchdog. Return at once if there is none."""
        while self._address and self._period_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self._period_s / 2)

"""Name look-ups of the broker: threads that all bindings share, of which none may hold more than its part."""

import asyncio
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from hostfuncs.outbound.addresses import Address
from hostfuncs.outbound.network import LOOK_UPS, parse_addresses

THREADS: Final = 64
"""The most names that are looked up at once; further ones wait."""


class LookUps:
    """getaddrinfo on threads.

    No look-up can be stopped. One that nobody waits for any more holds its thread until the system gives up, and until
    then it counts for its binding. So a binding whose names are never answered waits for itself.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
        self._places: dict[str, asyncio.Semaphore] = {}

    def __repr__(self) -> str:
        return f"<LookUps of {len(self._places)} bindings>"

    async def resolve(self, binding: str, host: str, port: int) -> list[Address]:
        """Ask the system, hosts file and search domains included.

        Parameters:
            binding: for whose guest. At most `hostfuncs.outbound.network.LOOK_UPS` of one run at once.
            host: a name in ASCII.
            port: any.

        Returns:
            the addresses in the order to try them.

        Raises:
            socket.gaierror: the system found none.
        """
        places = self._places.setdefault(binding, asyncio.Semaphore(LOOK_UPS))
        await places.acquire()
        # As bytes: the name was read once, and no second codec is to read it otherwise.
        try:
            look_up = self._threads.submit(socket.getaddrinfo, host.encode("ascii"), port, type=socket.SOCK_STREAM)
        except RuntimeError:
            # CPython's error for a thread that the system refuses.
            places.release()
            raise socket.gaierror(socket.EAI_AGAIN, "no thread for the look-up") from None
        look_up.add_done_callback(partial(_release, asyncio.get_running_loop(), places))
        found = await asyncio.wrap_future(look_up)
        return parse_addresses(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))

    def forget(self, binding: str) -> None:
        """Drop what is kept for a binding that no generation has any more."""
        self._places.pop(binding, None)


def _release(loop: asyncio.AbstractEventLoop, places: asyncio.Semaphore, _look_up: Future[Any]) -> None:
    loop.call_soon_threadsafe(places.release)

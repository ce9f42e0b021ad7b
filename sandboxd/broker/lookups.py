"""Name look-ups of the broker: threads that all bindings share, of which none can keep another from its part."""

import _thread
import asyncio
import contextlib
import socket
from collections import Counter, deque
from typing import Final

from hostfuncs.outbound.addresses import Address
from hostfuncs.outbound.network import LOOK_UPS, parse_addresses

COMMON: Final = 64
"""The most names that are looked up at once on places that all bindings have in common."""


class Places:
    """Decides which binding may look a name up now.

    A binding has one place of its own and at most LOOK_UPS in all. The others are common ones. It takes one of these
    only while it holds fewer of them than are free, so that those who come later find some, too.
    """

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._free = COMMON

    def __repr__(self) -> str:
        return f"<Places held by {len(self._held)} bindings, {self._free} of {COMMON} common ones free>"

    def take(self, binding: str) -> bool:
        """Take a place for a binding. Return False if it must wait."""
        held = self._held[binding]
        if held:
            if held >= LOOK_UPS or held - 1 >= self._free:
                return False
            self._free -= 1
        self._held[binding] = held + 1
        return True

    def give_back(self, binding: str) -> None:
        """Give back one place that a binding holds."""
        self._held[binding] -= 1
        if self._held[binding]:
            self._free += 1
        else:
            del self._held[binding]


class _LookUp:
    """A name that is to be looked up, and the future of whoever asked."""

    __slots__ = ("answer", "binding", "host", "port")

    def __init__(self, binding: str, host: str, port: int, answer: "asyncio.Future[list[Address]]") -> None:
        self.binding = binding
        self.host = host
        self.port = port
        self.answer = answer

    def ask(self) -> list[Address]:
        """Ask the system. It is for a thread of its own.

        Raises:
            socket.gaierror: the system found none.
        """
        # As bytes: the name was read once, and no second codec is to read it otherwise.
        found = socket.getaddrinfo(self.host.encode("ascii"), self.port, type=socket.SOCK_STREAM)
        return parse_addresses(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))

    def answered(self, found: list[Address] | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(found, Exception):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)


class LookUps:
    """getaddrinfo on threads.

    No look-up can be stopped. One that nobody waits for any more holds its place until the system gives up. So a
    binding whose names are never answered waits for itself, and no other does.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._places = Places()
        self._waiting: dict[str, deque[_LookUp]] = {}
        """By binding. The first binding is the next to get a place."""

    def __repr__(self) -> str:
        return f"<LookUps, {len(self._waiting)} bindings wait, {self._places}>"

    async def resolve(self, binding: str, host: str, port: int) -> list[Address]:
        """Ask the system, hosts file and search domains included.

        Parameters:
            binding: for whose guest.
            host: a name in ASCII.
            port: any.

        Returns:
            the addresses in the order to try them.

        Raises:
            socket.gaierror: the system found none, or there is no thread.
        """
        look_up = _LookUp(binding, host, port, self._loop.create_future())
        queue = self._waiting.get(binding)
        if queue is None and self._places.take(binding):
            self._start(look_up)
        elif queue is None:
            self._waiting[binding] = deque([look_up])
        else:
            queue.append(look_up)
        try:
            return await look_up.answer
        finally:
            queue = self._waiting.get(binding)
            if queue is not None:
                with contextlib.suppress(ValueError):  # it has been started
                    queue.remove(look_up)
                if not queue:
                    del self._waiting[binding]

    def _start(self, look_up: _LookUp) -> bool:
        """Look up on the place that was taken. Return False if the system has no thread; the place is given back.

        Each has a thread of its own: a ThreadPoolExecutor keeps, and does later, what it could not start. Starting a
        `threading.Thread` would wait until the thread runs.
        """
        try:
            _thread.start_new_thread(self._run, (look_up,))
        except RuntimeError:
            # CPython's error for a thread that the system refuses.
            self._places.give_back(look_up.binding)
            look_up.answered(socket.gaierror(socket.EAI_AGAIN, "no thread for the look-up"))
            return False
        return True

    def _run(self, look_up: _LookUp) -> None:
        found: list[Address] | Exception
        try:
            found = look_up.ask()
        except Exception as error:  # noqa: BLE001 - raised where the name was asked for; the place is given back
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(self._end, look_up, found)

    def _end(self, look_up: _LookUp, found: list[Address] | Exception) -> None:
        self._places.give_back(look_up.binding)
        look_up.answered(found)
        served: dict[str, deque[_LookUp]] = {}
        for binding, queue in list(self._waiting.items()):
            if self._start_next(queue):
                served[binding] = self._waiting.pop(binding)
            if not queue:
                self._waiting.pop(binding, None)
        # They go to the end of the line.
        self._waiting.update((binding, queue) for binding, queue in served.items() if queue)

    def _start_next(self, queue: deque[_LookUp]) -> bool:
        """Start the first look-up of a binding that somebody still waits for. Return whether there was a place for it.

        So a binding that has some waiting holds a place, whose end brings the next one's turn.
        """
        while queue:
            first = queue[0]
            if first.answer.done():
                queue.popleft()
            elif not self._places.take(first.binding):
                return False
            elif self._start(queue.popleft()):
                return True
        return False

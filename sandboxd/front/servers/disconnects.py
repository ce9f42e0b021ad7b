"""Notices callers that hang up while their invocation runs.

A server that can tell by itself offers the ASGI extension GONE (uvicorn and Hypercorn do here). On others a task would
have to wait in `receive`, and one per request would cost more than most invocations do. So there requests only enter a
table, and a sweep starts watching those that have been in it for a while.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from sandboxd.front.ports import Receive

GONE: Final = "sandboxd.gone"
"""Extension of a request's scope: a function that takes a callback. The callback is called once if the caller hangs up
before the answer is complete, and at once if that has happened already. Pass None to unsubscribe. Subscribing means
that the application has read all it needs: the rest of the request's body may be discarded."""

Tell = Callable[[Callable[[], None] | None], None]

SWEEP_S: Final = 0.02
"""Pause between sweeps. A request is watched after one to two of them."""


class Presence:
    """One request in the table. `gone` tells, once its task was cancelled, that the caller hung up."""

    __slots__ = ("gone", "receive", "round", "task", "tell", "watcher")

    def __init__(self, receive: Receive, task: "asyncio.Task[None]", round: int, tell: Tell | None) -> None:
        self.receive = receive
        self.task = task
        self.round = round
        self.gone = False
        self.tell = tell
        self.watcher: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Presence {'gone' if self.gone else 'watched' if self.watcher or self.tell else 'unwatched'}>"

    def hang_up(self) -> None:
        """Record that the caller is gone, and cancel the request's task."""
        self.gone = True
        self.task.cancel()


class Disconnects:
    """The table of the requests that are answered. It is used on one event loop only."""

    def __init__(self) -> None:
        # Insertion order is age, so a sweep stops at the first that is too young.
        self._unwatched: dict[Presence, None] = {}
        self._round = 0
        self._sweeping = False

    def __repr__(self) -> str:
        return f"<Disconnects {len(self._unwatched)} unwatched>"

    def enter(self, receive: Receive, tell: Tell | None = None) -> Presence:
        """Cancel the current task if the caller hangs up from now on.

        Parameters:
            receive: reports a disconnect; not called if there is `tell`.
            tell: the server's extension GONE.
        """
        task = asyncio.current_task()
        assert task is not None
        presence = Presence(receive, task, self._round, tell)
        if tell is not None:
            tell(presence.hang_up)
            return presence
        self._unwatched[presence] = None
        if not self._sweeping:
            self._sweeping = True
            task.get_loop().call_later(SWEEP_S, self._sweep)
        return presence

    def leave(self, presence: Presence) -> None:
        """Take a request whose invocation is over out of the table. Its task is not cancelled any more."""
        if presence.tell is not None:
            presence.tell(None)
            return
        self._unwatched.pop(presence, None)
        if presence.watcher is not None:
            presence.watcher.cancel()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._unwatched:
            presence = next(iter(self._unwatched))
            if presence.round == self._round:
                break
            del self._unwatched[presence]
            presence.watcher = loop.create_task(self._watch(presence))
        self._round += 1
        if self._unwatched:
            loop.call_later(SWEEP_S, self._sweep)
        else:
            self._sweeping = False

    async def _watch(self, presence: Presence) -> None:
        # What is left of a body beyond the limit arrives here too and is dropped.
        while (await presence.receive())["type"] != "http.disconnect":
            pass
        presence.hang_up()

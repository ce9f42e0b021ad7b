"""Hypercorn's requests with the extension GONE, see `sandboxd.front.servers.disconnects`.

Hypercorn only tells of a caller that hung up through `receive`, so somebody would have to wait there, in a task of its
own for each request that takes long; under load that is all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hypercorn.asyncio import task_group, tcp_server

from sandboxd.front.servers.disconnects import GONE


class Inbox(asyncio.Queue[Any]):
    """The messages that the application receives for one request.

    Hypercorn reads nothing of a connection, not even its end, while a message waits for room here. So once the
    application asks to be told, and receives no more, pieces of a body are dropped.

    Parameters:
        maxsize: messages it holds.
    """

    _gone: Callable[[], None] | None = None
    _left = False
    _asked = False

    def tell(self, gone: Callable[[], None] | None) -> None:
        """Set the function of the extension `sandboxd.front.servers.disconnects.GONE`."""
        self._gone = gone
        self._asked = True
        self._clear()
        if self._left:
            self._call()

    async def put(self, item: Any) -> None:
        """Take a message from Hypercorn. It may have to wait for room, except the message that the caller is gone."""
        if item["type"] == "http.disconnect":
            self._left = True
            self._clear()  # a body of which a piece is missing must not look like a whole one
            self._call()
        if not self._asked:
            await super().put(item)

    def _clear(self) -> None:
        while not self.empty():
            self.get_nowait()

    def _call(self) -> None:
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()


class InboxTaskGroup(task_group.TaskGroup):
    """Hypercorn's tasks of one connection; applications get an `Inbox`."""

    async def spawn_app(
        self, app: Any, config: Any, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """See Hypercorn (hypercorn/asyncio/task_group.py)."""
        if scope["type"] != "http":
            return await super().spawn_app(app, config, scope, send)
        inbox = Inbox(config.max_app_queue_size)
        scope["extensions"] = {**scope.get("extensions", {}), GONE: inbox.tell}
        # The last two are for WSGI.
        in_thread = partial(asyncio.get_running_loop().run_in_executor, None)
        self.spawn(task_group._handle, app, config, scope, inbox.get, send, in_thread, _not_here)
        return inbox.put


def _not_here(*_: Any) -> None:
    raise RuntimeError("only ASGI applications are served")


def install() -> None:
    """Have Hypercorn use it for all connections accepted from now on. It offers no other way to choose."""
    vars(tcp_server)["TaskGroup"] = InboxTaskGroup

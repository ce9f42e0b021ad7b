"""A cell's end of the status socket: hears what concerns all cells, and speaks for them where a caller asks."""

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry

from sandboxd.cells.exposition import expose, snapshot
from sandboxd.cells.messages import (
    Ask,
    Attribute,
    Changed,
    Collect,
    Family,
    Merged,
    Ping,
    Pong,
    Readiness,
    ReloadCell,
    Reloaded,
    Snapshot,
    State,
    ToCell,
    Watch,
    Welcome,
)
from sandboxd.wire import codec
from sandboxd.wire.messages import Message

log = logging.getLogger("sandboxd.cells")

READ_BYTES: Final = 1 << 18
MERGED_S: Final = 5.0
"""How long a scrape may wait for the supervisor, which itself waits a fraction of that for other cells."""
READINESS_S: Final = 0.2
"""How often a cell looks whether its own readiness has changed."""


class Cell(Protocol):
    """What the status socket needs of the server in this process."""

    @property
    def registry(self) -> CollectorRegistry:
        """The cell's own metrics."""

    def own_not_ready(self) -> list[str]:
        """What keeps this cell from being ready."""

    def stop(self) -> None:
        """Drain and exit."""

    def reload(self) -> None:
        """Reload; `Member.reloaded` is called when that has ended."""


class Member:
    """One cell among several. It belongs to the event loop that `join` is called on.

    Parameters:
        channel: the status socket.
        welcome: the first message that came through it.
        decoder: what it was decoded with; it may hold the beginning of the next.
        received: messages that came along with the first.
    """

    def __init__(
        self, channel: socket.socket, welcome: Welcome, decoder: codec.Decoder, received: Sequence[Message]
    ) -> None:
        self.number = welcome.number
        self.first = welcome.first
        """It is the first to start, and answers before it is ready."""
        self.attributes: dict[str, str] = dict(welcome.attributes)
        """What callers have left at any cell."""
        self.changed = asyncio.Event()
        """To be set when files or guests have changed."""
        self._channel = channel
        self._decoder = decoder
        self._received = list(received)
        self._state = State(0, 1)
        self._watches = asyncio.Event()
        self._ids = itertools.count(1)
        self._merged: dict[int, asyncio.Future[tuple[Family, ...]]] = {}
        self._cell: Cell | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Member {self.number} of {self._state.cells}>"

    async def join(self, cell: Cell) -> None:
        """Begin to listen and to answer.

        Parameters:
            cell: this process's server.
        """
        self._cell = cell
        reader, self._writer = await asyncio.open_unix_connection(sock=self._channel)
        for message in self._received:
            self._handle(message)
        self._received.clear()
        self._tasks = [
            asyncio.create_task(self._listen(reader), name="cell-listen"),
            asyncio.create_task(self._tell_readiness(), name="cell-readiness"),
            asyncio.create_task(self._tell_changes(), name="cell-changes"),
        ]

    async def leave(self) -> None:
        """Tell the metrics a last time, so that nothing counted is lost, and close."""
        for task in self._tasks:
            task.cancel()
        if self._writer is not None and self._cell is not None:
            self._send(Snapshot(0, snapshot(self._cell.registry)))
            with contextlib.suppress(OSError):
                self._writer.close()
                await asyncio.wait_for(self._writer.wait_closed(), 2)
            self._writer = None

    # for the front ----------------------------------------------------------------------------------------------------

    def not_ready(self, own: list[str]) -> list[str]:
        """What keeps the server from being ready: nothing, as long as one cell is.

        Parameters:
            own: what keeps this cell from it.
        """
        if not own or "draining" in own:
            return own
        # The other cells get the new connections, and this one answers only for those it has already.
        return [] if self._state.ready else own

    def summary(self) -> str:
        """How many cells are ready, in words."""
        ready = self._state.ready
        return f"{ready} of {self._state.cells} cells are ready"

    def share_attribute(self, key: str, value: str) -> None:
        """Have all other cells know an attribute that is set in this one."""
        self._send(Attribute(key, value))

    async def expose(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all cells as text, and its Content-Type.

        Raises:
            TimeoutError: the supervisor did not answer.
        """
        number = next(self._ids)
        answer = self._merged[number] = asyncio.get_running_loop().create_future()
        self._send(Collect(number))
        try:
            families = await asyncio.wait_for(answer, MERGED_S)
        finally:
            del self._merged[number]
        return expose(families, accept)

    # for the server of this cell --------------------------------------------------------------------------------------

    def reloaded(self, error: str) -> None:
        """A reload has ended.

        Parameters:
            error: why it was refused; empty if it was not.
        """
        self._send(Reloaded(error))

    async def watch(
        self, watch: Callable[[asyncio.Event], Awaitable[Any]], unchanged: Callable[[], Awaitable[bool]]
    ) -> None:
        """Once this cell is the one to watch for all, do so. Runs for ever.

        Parameters:
            watch: sets the event at every change.
            unchanged: whether nothing changed since the cell read everything.
        """
        first = not self._watches.is_set()
        await self._watches.wait()
        watching = asyncio.ensure_future(watch(self.changed))
        try:
            # The one who watched before may have died with a change it had seen.
            if first and not await unchanged():
                self.changed.set()
            await watching
        finally:
            watching.cancel()

    # the socket -------------------------------------------------------------------------------------------------------

    def _send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(codec.encode(message))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        assert self._cell is not None
        try:
            while data := await reader.read(READ_BYTES):
                for message in self._decoder.feed(data):
                    self._handle(message)
        except ConnectionError:
            pass  # the same as its end
        except codec.ProtocolError as error:
            log.critical("the supervisor is not understood: %s", error)
        log.warning("the supervisor is gone")
        self._cell.stop()

    def _handle(self, message: Any) -> None:
        assert self._cell is not None
        match message:
            case State():
                self._state = message
            case Ask(number):
                self._send(Snapshot(number, snapshot(self._cell.registry)))
            case Ping(number):
                self._send(Pong(number))
            case Merged(number, families):
                answer = self._merged.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(families)
            case ReloadCell():
                self._cell.reload()
            case Watch():
                self._watches.set()
            case Attribute(key, value):
                self.attributes[key] = value

    async def _tell_readiness(self) -> None:
        assert self._cell is not None
        told: tuple[str, ...] = ("start",)
        while True:
            missing = tuple(self._cell.own_not_ready())
            if missing != told:
                told = missing
                self._send(Readiness(missing))
            await asyncio.sleep(READINESS_S)

    async def _tell_changes(self) -> None:
        while True:
            await self.changed.wait()
            self.changed.clear()
            self._send(Changed())


def welcomed(channel: socket.socket) -> tuple[Member, Welcome] | None:
    """Wait for the supervisor's first message.

    Parameters:
        channel: the status socket, in blocking mode.

    Returns:
        None if the supervisor is gone.
    """
    decoder = codec.Decoder(ToCell)
    while data := channel.recv(READ_BYTES):
        messages = decoder.feed(data)
        if messages:
            welcome = messages[0]
            assert isinstance(welcome, Welcome), "Welcome comes first"
            return Member(channel, welcome, decoder, messages[1:]), welcome
    return None

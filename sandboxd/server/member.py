"""A cell's connection to the supervisor (the status socket): messages to and from all the cells of one server."""

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from sandboxd.log import set_level
from sandboxd.metrics.exposition import KeptPieces, TextFormat, paced, paced_snapshot, snapshot
from sandboxd.wire import codec
from sandboxd.wire.cells import (
    Ask,
    AskStatus,
    Attribute,
    Changed,
    Collect,
    CollectStatus,
    Family,
    LogLevel,
    Merged,
    Ping,
    Pong,
    Readiness,
    ReloadCell,
    Reloaded,
    Snapshot,
    State,
    StatusPart,
    StatusParts,
    ToCell,
    Watch,
    Welcome,
)
from sandboxd.wire.messages import Message

log = logging.getLogger("sandboxd.cells")

READ_BYTES: Final = 1 << 18
MERGED_S: Final = 5.0
"""The longest that a scrape waits for the supervisor, which itself waits a fraction of that for other cells."""
SNAPSHOT_REST: Final = 1.0
"""The rest after each piece of a snapshot, as a multiple of the time that the piece took."""
READINESS_S: Final = 0.2
"""The interval at which a cell checks whether its own readiness has changed."""


class Cell(Protocol):
    """The server in this process, as far as `Member` needs it."""

    def metric_pieces(self) -> Iterator[Metric]:
        """Yield the cell's own metrics in pieces."""

    @property
    def registry(self) -> CollectorRegistry:
        """The cell's own metrics."""

    async def status_part(self) -> bytes:
        """Return the cell's part of the status document."""

    def own_not_ready(self) -> list[str]:
        """Return what this cell still waits for; empty when it is ready."""

    def stop(self) -> None:
        """Drain and exit."""

    def reload(self) -> None:
        """Begin to reload. `Member.reloaded` is called when that has ended."""


class Member:
    """One cell among several. It belongs to the event loop on which `join` is called.

    Parameters:
        channel: the status socket.
        welcome: the first message received on it.
        decoder: the decoder of that message; it may hold the beginning of the next.
        received: the messages received along with the first.
    """

    def __init__(
        self, channel: socket.socket, welcome: Welcome, decoder: codec.Decoder, received: Sequence[Message]
    ) -> None:
        self.number = welcome.number
        self.first = welcome.first
        """Whether it is the first cell to start, which answers before it is ready."""
        self.attributes: dict[str, str] = dict(welcome.attributes)
        """The metadata attributes that callers have set at any cell."""
        self.changed = asyncio.Event()
        """Set it when files or guests have changed: all cells then reload."""
        self._channel = channel
        self._decoder = decoder
        self._received = list(received)
        self._state = State(0, 1)
        self._watches = asyncio.Event()
        self._ids = itertools.count(1)
        self._merged: dict[int, asyncio.Future[tuple[Family, ...]]] = {}
        self._statuses: dict[int, asyncio.Future[tuple[bytes, ...]]] = {}
        self._texts = KeptPieces()
        self._cell: Cell | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Member {self.number} of {self._state.cells}>"

    async def join(self, cell: Cell) -> None:
        """Begin to read the status socket and to answer.

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
        """Send the metrics a last time, so that no count is lost, and close the socket."""
        for task in (*self._tasks, *self._answering):
            task.cancel()
        if self._writer is not None and self._cell is not None:
            self._send(Snapshot(0, snapshot(self._cell.registry)))
            with contextlib.suppress(OSError):
                self._writer.close()
                await asyncio.wait_for(self._writer.wait_closed(), 2)
            self._writer = None

    # for the front ----------------------------------------------------------------------------------------------------

    def not_ready(self, own: list[str]) -> list[str]:
        """Return what the whole server still waits for: nothing, while any cell is ready.

        Parameters:
            own: what this cell still waits for.
        """
        if not own or "draining" in own:
            return own
        # New connections go to the other cells. This one answers only on connections that it has already.
        return [] if self._state.ready else own

    def summary(self) -> str:
        """Return a sentence that says how many cells are ready."""
        ready = self._state.ready
        return f"{ready} of {self._state.cells} cells are ready"

    def share_attribute(self, key: str, value: str) -> None:
        """Send a metadata attribute that was set at this cell to all other cells."""
        self._send(Attribute(key, value))

    async def expose(self, accept: str, rest: float) -> tuple[Sequence[bytes], str]:
        """Return the metrics of all cells as text, in parts, and its Content-Type.

        Parameters:
            accept: the scrape's Accept header.
            rest: see `paced`.

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
        form = TextFormat(accept)
        return [*await paced(self._texts.pieces(families, form), rest), form.end], form.content_type

    async def collect_status(self) -> tuple[bytes, ...]:
        """Return the parts of the status document of all cells that answer.

        Raises:
            TimeoutError: the supervisor did not answer.
        """
        number = next(self._ids)
        answer = self._statuses[number] = asyncio.get_running_loop().create_future()
        self._send(CollectStatus(number))
        try:
            return await asyncio.wait_for(answer, MERGED_S)
        finally:
            del self._statuses[number]

    def share_log_level(self, level: str) -> None:
        """Have all cells log from this severity on."""
        self._send(LogLevel(level))

    # for the server of this cell --------------------------------------------------------------------------------------

    def reloaded(self, error: str) -> None:
        """Tell the supervisor that a reload has ended.

        Parameters:
            error: why the reload failed; empty if it succeeded.
        """
        self._send(Reloaded(error))

    async def watch(
        self, watch: Callable[[asyncio.Event], Awaitable[Any]], unchanged: Callable[[], Awaitable[bool]]
    ) -> None:
        """Wait until this cell is chosen to watch for all, then watch. It never returns.

        Parameters:
            watch: watches for ever, and sets the event at each change.
            unchanged: returns whether nothing has changed since this cell read everything.
        """
        first = not self._watches.is_set()
        await self._watches.wait()
        watching = asyncio.ensure_future(watch(self.changed))
        try:
            # The cell that watched before may have died after noticing a change and before reporting it.
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
            pass  # the same as end-of-file
        except codec.ProtocolError as error:
            log.critical("the supervisor sent a malformed message: %s", error)
        log.warning("the supervisor has ended; this cell drains and exits")
        self._cell.stop()

    def _handle(self, message: Any) -> None:
        assert self._cell is not None
        match message:
            case State():
                self._state = message
            case Ask(number):
                self._do(self._answer(number, self._cell.metric_pieces()))
            case AskStatus(number):
                self._do(self._answer_status(number))
            case StatusParts(number, parts):
                asked = self._statuses.get(number)
                if asked is not None and not asked.done():
                    asked.set_result(parts)
            case LogLevel(level):
                set_level(level)
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

    def _do(self, answer: Coroutine[Any, Any, None]) -> None:
        answering = asyncio.create_task(answer, name="cell-answer")
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)

    async def _answer_status(self, number: int) -> None:
        assert self._cell is not None
        self._send(StatusPart(number, await self._cell.status_part()))

    async def _answer(self, number: int, pieces: Iterator[Metric]) -> None:
        self._send(Snapshot(number, await paced_snapshot(pieces, SNAPSHOT_REST)))

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
        this cell and the message; None if the supervisor has ended.
    """
    decoder = codec.Decoder(ToCell)
    while data := channel.recv(READ_BYTES):
        messages = decoder.feed(data)
        if messages:
            welcome = messages[0]
            assert isinstance(welcome, Welcome), "Welcome comes first"
            return Member(channel, welcome, decoder, messages[1:]), welcome
    return None

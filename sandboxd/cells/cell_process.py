"""One process of a cell, as the supervisor sees it. A cell that dies is started again as a new process."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import time
from typing import Any, Final, Protocol

from sandboxd.processes import interpreter
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
    Ping,
    Pong,
    Readiness,
    Reloaded,
    Snapshot,
    StatusPart,
    ToSupervisor,
)
from sandboxd.wire.messages import Message

log = logging.getLogger("sandboxd.cells")

READ_BYTES: Final = 1 << 18
MAX_UNREAD_BYTES: Final = 16 << 20
"""The limit of the bytes that wait for a cell that does not read. A cell beyond it hangs, and is killed."""


class CellEvents(Protocol):
    """The supervisor, as far as a cell asks something of it."""

    def on_readiness(self, cell: "CellProcess") -> None:
        """A cell became ready, or is no longer ready."""

    def on_collect(self, cell: "CellProcess", ask: int) -> None:
        """A cell wants the metrics of all cells."""

    def on_collect_status(self, cell: "CellProcess", ask: int) -> None:
        """A cell wants the parts of the status document of all cells."""

    def on_log_level(self, level: str) -> None:
        """Somebody changed at this cell what is logged: all cells must learn it."""

    def on_changed(self) -> None:
        """Files or guests have changed: all cells must reload."""

    def on_attribute(self, cell: "CellProcess", attribute: Attribute) -> None:
        """A caller set a metadata attribute at this cell: all other cells must learn it."""


class CellProcess:
    """One process of a cell. Make it with `start`, on a running event loop.

    Parameters:
        number: the cell's number.
        process: the running process.
        channel: the supervisor's end of the status socket.
        events: told what the cell asks for.
    """

    def __init__(
        self, number: int, process: "subprocess.Popen[bytes]", channel: socket.socket, events: CellEvents
    ) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.began = time.monotonic()
        self.missing: tuple[str, ...] = ("start",)
        """The conditions that the cell still waits for; empty when it is ready."""
        self.was_ready = False
        self.answers = True
        """Whether it answered the latest question in time."""
        self.last_answer = self.began
        self.families: tuple[Family, ...] = ()
        """The metrics it sent last."""
        self.status_part: bytes | None = None
        """Its part of the status document, as it sent it last."""
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit status, as in Popen.returncode."""
        self.settled = asyncio.Event()
        """Set once the process was ready for the first time, or has ended."""
        self._process = process
        self._events = events
        self._questions: dict[int, asyncio.Future[None]] = {}
        self._ids = itertools.count(1)
        self._reloaded: asyncio.Future[str] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._unsent: list[bytes] = []
        self._pidfd = os.pidfd_open(process.pid)
        loop.add_reader(self._pidfd, self._on_exit)
        self._talking = asyncio.create_task(self._talk(channel), name=f"cell-{number}")

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else "ready" if self.ready else f"waits for {', '.join(self.missing)}"
        return f"<CellProcess {self._process.pid} of cell {self.number}: {state}>"

    @classmethod
    def start(cls, number: int, listener_fd: int, events: CellEvents) -> "CellProcess":
        """Start a process for a cell. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            # A session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, which then drains.
            process = subprocess.Popen(
                interpreter.command("sandboxd.server.cell", str(number), str(theirs.fileno()), str(listener_fd)),
                pass_fds=[theirs.fileno(), listener_fd],
                stdin=subprocess.DEVNULL,
                env=interpreter.environment(os.environ),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(number, process, ours, events)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """Whether it can run guests."""
        return not self.missing and self.answers and not self.ended.done()

    def send(self, message: Message) -> None:
        """Send without waiting. A cell that no longer reads is killed."""
        if self.ended.done():
            return
        data = codec.encode(message)
        if self._writer is None:
            self._unsent.append(data)
            return
        if self._writer.is_closing():
            return  # the process has died; `_on_exit` is about to be called
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def ask(self, timeout_s: float) -> bool:
        """Ask for its metrics and store them in `families`. Return whether it answered in time.

        Parameters:
            timeout_s: the longest wait.
        """
        ask = next(self._ids)
        return await self._answer_to(ask, Ask(ask), timeout_s)

    async def ask_status(self, timeout_s: float) -> bytes | None:
        """Ask for its part of the status document. Return it, or None if it did not come in time."""
        self.status_part = None
        ask = next(self._ids)
        await self._answer_to(ask, AskStatus(ask), timeout_s)
        return self.status_part

    async def ping(self, timeout_s: float) -> bool:
        """Return whether it answers within `timeout_s`."""
        ask = next(self._ids)
        return await self._answer_to(ask, Ping(ask), timeout_s)

    async def _answer_to(self, ask: int, question: Message, timeout_s: float) -> bool:
        answer = self._questions[ask] = asyncio.get_running_loop().create_future()
        self.send(question)
        try:
            ends: set[asyncio.Future[Any]] = {answer, self.ended}
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._questions.pop(ask, None)
        if not answer.done() and not self.ended.done():
            self._answered(False, ask)
        return answer.done()

    async def reload(self, message: Message) -> str:
        """Ask it to reload.

        Returns:
            why the cell refused; empty if it reloaded.
        """
        self._reloaded = asyncio.get_running_loop().create_future()
        self.send(message)
        ends: set[asyncio.Future[Any]] = {self._reloaded, self.ended}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return self._reloaded.result() if self._reloaded.done() else "the cell ended"

    async def close(self) -> None:
        """Close the ended process's descriptors, once everything it has written is read."""
        await asyncio.wait({self._talking}, timeout=1)
        if not self._talking.done():
            self._talking.cancel()
            await asyncio.wait({self._talking})

    def _answered(self, answers: bool, ask: int) -> None:
        if answers:
            self.last_answer = time.monotonic()
            question = self._questions.get(ask)
            if question is not None and not question.done():
                question.set_result(None)
        if answers != self.answers:
            self.answers = answers
            if self.was_ready:
                self._events.on_readiness(self)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        status = self._process.wait()
        os.close(self._pidfd)
        self.ended.set_result(status)
        self.settled.set()

    async def _talk(self, channel: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=channel)
        self._writer = writer
        for data in self._unsent:
            writer.write(data)
        self._unsent.clear()
        decoder = codec.Decoder(ToSupervisor)
        try:
            while data := await reader.read(READ_BYTES):
                for message in decoder.feed(data):
                    self._handle(message)
        except ConnectionError:
            pass  # it died; its exit status says why
        except codec.ProtocolError as error:
            log.error("cell %d is killed: %s", self.number, error)
            self.signal(signal.SIGKILL)
        finally:
            writer.close()

    def _handle(self, message: ToSupervisor) -> None:
        match message:
            case Readiness(missing):
                self.missing = missing
                self.answers = True
                if not missing:
                    self.was_ready = True
                    self.settled.set()
                self._events.on_readiness(self)
            case Snapshot(ask, families):
                self.families = families
                self._answered(True, ask)
            case Pong(ask):
                self._answered(True, ask)
            case Collect(ask):
                self._events.on_collect(self, ask)
            case StatusPart(ask, part):
                self.status_part = part
                self._answered(True, ask)
            case CollectStatus(ask):
                self._events.on_collect_status(self, ask)
            case LogLevel(level):
                self._events.on_log_level(level)
            case Changed():
                self._events.on_changed()
            case Reloaded(error):
                if self._reloaded is not None and not self._reloaded.done():
                    self._reloaded.set_result(error)
            case Attribute():
                self._events.on_attribute(self, message)

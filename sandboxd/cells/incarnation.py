"""One process of a cell, as the supervisor sees it: started, asked, ended."""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any, Final, Protocol

from sandboxd.cells.messages import (
    Ask,
    Attribute,
    Changed,
    Collect,
    Family,
    Ping,
    Pong,
    Readiness,
    Reloaded,
    Snapshot,
    ToSupervisor,
)
from sandboxd.wire import codec
from sandboxd.wire.messages import Message

log = logging.getLogger("sandboxd.cells")

READ_BYTES: Final = 1 << 18
MAX_UNREAD_BYTES: Final = 16 << 20
"""What may wait for a cell that does not read. A cell that lets more pile up hangs."""


class Requests(Protocol):
    """What cells ask of the supervisor."""

    def on_readiness(self, cell: "Incarnation") -> None:
        """A cell became ready, or ceased to be."""

    def on_collect(self, cell: "Incarnation", ask: int) -> None:
        """A cell wants the metrics of all."""

    def on_changed(self) -> None:
        """All cells are to reload."""

    def on_attribute(self, cell: "Incarnation", attribute: Attribute) -> None:
        """All other cells are to know an attribute."""


class Incarnation:
    """One process of a cell. Make it with `start`, on a running event loop.

    Parameters:
        number: the cell's.
        process: running.
        channel: the supervisor's end of the status socket.
        requests: told what the cell wants.
    """

    def __init__(
        self, number: int, process: "subprocess.Popen[bytes]", channel: socket.socket, requests: Requests
    ) -> None:
        loop = asyncio.get_running_loop()
        self.number = number
        self.began = time.monotonic()
        self.missing: tuple[str, ...] = ("start",)
        """What keeps it from being ready; empty when it is."""
        self.was_ready = False
        self.answers = True
        """It answered the latest question in time."""
        self.last_answer = self.began
        self.families: tuple[Family, ...] = ()
        """The metrics it told last."""
        self.ended: asyncio.Future[int] = loop.create_future()
        """Its exit status, as of Popen.returncode."""
        self.settled = asyncio.Event()
        """It was ready for the first time, or it ended."""
        self._process = process
        self._requests = requests
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
        return f"<Incarnation {self._process.pid} of cell {self.number}: {state}>"

    @classmethod
    def start(cls, number: int, listener_fd: int, requests: Requests) -> "Incarnation":
        """Start a process for a cell. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            # A session of its own, so that a terminal's Ctrl-C reaches the supervisor alone, which then drains.
            process = subprocess.Popen(
                [sys.executable, "-m", "sandboxd.cells.main", str(number), str(theirs.fileno()), str(listener_fd)],
                pass_fds=[theirs.fileno(), listener_fd],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(number, process, ours, requests)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        """It can run guests."""
        return not self.missing and self.answers and not self.ended.done()

    def send(self, message: Message) -> None:
        """Send, without waiting; a cell that does not read any more is killed."""
        if self.ended.done():
            return
        data = codec.encode(message)
        if self._writer is None:
            self._unsent.append(data)
            return
        if self._writer.is_closing():
            return  # its death is about to be noticed
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def ask(self, timeout_s: float) -> bool:
        """Have it tell its metrics; afterwards `families` is fresh.

        Returns:
            whether it answered in time.
        """
        ask = next(self._ids)
        return await self._answer_to(ask, Ask(ask), timeout_s)

    async def ping(self, timeout_s: float) -> bool:
        """Whether it answers in time."""
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
        """Have it reload.

        Returns:
            why it was refused; empty if it was not.
        """
        self._reloaded = asyncio.get_running_loop().create_future()
        self.send(message)
        ends: set[asyncio.Future[Any]] = {self._reloaded, self.ended}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        return self._reloaded.result() if self._reloaded.done() else "the cell ended"

    async def close(self) -> None:
        """Let go of the ended process's descriptors, once everything it has written is read."""
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
                self._requests.on_readiness(self)

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
            pass  # it died; its exit status says how
        except codec.ProtocolError as error:
            log.error("cell %d is killed: %s", self.number, error)
            self.signal(signal.SIGKILL)
        finally:
            writer.close()

    def _handle(self, message: Readiness | Snapshot | Pong | Collect | Changed | Reloaded | Attribute) -> None:
        match message:
            case Readiness(missing):
                self.missing = missing
                self.answers = True
                if not missing:
                    self.was_ready = True
                    self.settled.set()
                self._requests.on_readiness(self)
            case Snapshot(ask, families):
                self.families = families
                self._answered(True, ask)
            case Pong(ask):
                self._answered(True, ask)
            case Collect(ask):
                self._requests.on_collect(self, ask)
            case Changed():
                self._requests.on_changed()
            case Reloaded(error):
                if self._reloaded is not None and not self._reloaded.done():
                    self._reloaded.set_result(error)
            case Attribute():
                self._requests.on_attribute(self, message)

"""One worker process as the pool sees it: its state, its socket, and what it was given and has not answered."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol, cast

from sandboxd.pool.state import WorkerEvent, WorkerState, advance
from sandboxd.pool.stream import FromGuest
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.page import SLOTS, StatusPage

if TYPE_CHECKING:
    from sandboxd.pool.generation import Generation
    from sandboxd.pool.invocation import Invocation

STALLED_NS = 2_000_000_000
"""A worker that runs nothing and leaves a frame unread for this long is replaced, and the frame goes to another."""


class WorkerEvents(Protocol):
    """Who hears what a worker says. Called on the event loop."""

    def on_ready(self, worker: "Worker") -> None:
        """READY arrived."""

    def on_result(self, worker: "Worker", result: m.Result) -> None:
        """A result arrived."""

    def on_skipped(self, worker: "Worker", invocation_id: int) -> None:
        """The worker left out a frame that had been taken back."""

    def on_streamed(self, worker: "Worker", message: FromGuest) -> None:
        """A streaming invocation's credit, head or piece of a body arrived."""

    def on_channel_lost(self, worker: "Worker", why: str) -> None:
        """The socket closed, or carried something that is no frame (`why` says which)."""


class Worker(asyncio.Protocol):
    """One worker.

    Parameters:
        serial: its number, unique in this server.
        generation: the set of guests it was forked with.
        events: who is told.
    """

    def __init__(self, serial: int, generation: "Generation", events: WorkerEvents) -> None:
        self.serial = serial
        self.generation = generation
        self.state = WorkerState.STARTING
        self.pid = 0
        self.inflight: deque[Invocation] = deque()
        self.holding: dict[str, int] = {}
        """How many of them are of which binding."""
        self.asked_ns = time.monotonic_ns()
        self.busy_since_ns = 0
        self.head_since_ns = 0
        self.served = 0
        self.exit_reason = ""
        self.fault = ""
        """What it did against the protocol."""
        self.exited = ""
        """How it died, once it was reaped. What it said before may still be in its socket."""
        self.turned_away = False
        """This process had no descriptors left for it."""
        self._events = events
        self._decoder = codec.Decoder(codec.FromWorker)
        self._transport: asyncio.Transport | None = None
        self._page: StatusPage | None = None
        self._pidfd = -1
        self._sent = 0
        self._taken_back = 0
        self._stale_since_ns = 0
        self._revoked: set[int] = set()

    def __repr__(self) -> str:
        return f"<Worker {self.serial} pid={self.pid} {self.state.name} inflight={len(self.inflight)}>"

    def advance(self, event: WorkerEvent) -> None:
        """Move to the next state.

        Raises:
            IllegalTransitionError: see `sandboxd.pool.state`.
        """
        self.state = advance(self.state, event)

    @property
    def stale(self) -> bool:
        """Its socket holds frames that were taken back and that it has not skipped yet: until then it gets no more."""
        return self._taken_back > 0

    @property
    def connected(self) -> bool:
        """True while there may be something to read from it."""
        return self._transport is not None

    def adopt(self, pid: int, page_fd: int, pidfd: int) -> None:
        """Take over what the zygote sent, except the socket.

        Raises:
            OSError: the page cannot be mapped; both descriptors are taken care of all the same.
        """
        self.pid = pid
        self._pidfd = pidfd
        try:
            self._page = StatusPage(page_fd)
        finally:
            os.close(page_fd)

    async def connect(self, channel: socket.socket) -> None:
        """Listen to it from now on."""
        if self.state is WorkerState.GONE:
            channel.close()
            return
        channel.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=channel)

    def send(self, invocation: "Invocation", guest: int, poll_ns: int = 0) -> None:
        """Give it an invocation. The caller has checked `room`.

        Parameters:
            invocation: not in flight anywhere.
            guest: index of its guest.
            poll_ns: see `sandboxd.wire.messages.Invoke`.
        """
        assert self._transport is not None
        self._sent += 1
        invocation.number = self._sent
        invocation.worker = self
        self.inflight.append(invocation)
        self._transport.write(
            codec.encode(
                m.Invoke(
                    id=invocation.id,
                    guest=guest,
                    deadline_ns=invocation.deadline_ns,
                    args=invocation.args,
                    env=invocation.env,
                    stdin=invocation.stdin,
                    http=invocation.http,
                    streaming=invocation.stream is not None,
                    body_follows=invocation.stream is not None and invocation.stream.body_follows,
                    poll_ns=poll_ns,
                )
            )
        )

    def write(self, message: m.Message) -> None:
        """Send a frame that is not counted: a piece of the body of what it runs. Dropped if it is gone."""
        if self._transport is not None:
            self._transport.write(codec.encode(message))

    def pause(self) -> None:
        """Read nothing more for now. Its end is not noticed either, so someone must `resume`."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def room(self, ahead: int) -> bool:
        """True if it may be given one more while `ahead` may wait in its socket."""
        return len(self.inflight) <= ahead and not self.stale and len(self._revoked) < SLOTS // 2

    def has_begun(self, invocation: "Invocation") -> bool:
        """True if the worker started, or finished, this invocation. Reliable after its death."""
        return self._page is None or self._page.begun() >= invocation.number

    def revoke(self, invocation: "Invocation") -> bool:
        """Take back an invocation it has not begun. True: it will not run and is no longer in flight here."""
        if self._page is None or not self._page.revoke(invocation.number):
            self._revoked.add(invocation.number)
            return False
        self.inflight.remove(invocation)
        invocation.worker = None
        self._taken_back += 1
        self._stale_since_ns = time.monotonic_ns()
        return True

    def settle(self, invocation: "Invocation") -> None:
        """Its answer is there: forget a mark on its frame that came too late."""
        if self._revoked and invocation.number in self._revoked:
            self._revoked.discard(invocation.number)
            if self._page is not None:
                self._page.restore(invocation.number)

    def skipped(self, invocation_id: int) -> "Invocation | None":
        """It left out a frame.

        Returns:
            the invocation if we believed it begun: the mark is gone, and it was not run. None if it was taken back.

        Raises:
            ProtocolError: it left out something that it should have run.
        """
        for invocation in self.inflight:
            if invocation.id == invocation_id and invocation.number in self._revoked:
                self.inflight.remove(invocation)
                self._revoked.discard(invocation.number)
                return invocation
        if not self._taken_back:
            raise codec.ProtocolError(f"left out invocation {invocation_id}, which was not taken back")
        self._taken_back -= 1
        return None

    def stalled(self, now_ns: int) -> bool:
        """True if it does not take what is in its socket, though it runs nothing: stopped, or stuck in its loop."""
        if not self.inflight:
            return self.stale and now_ns - self._stale_since_ns > STALLED_NS
        return now_ns - self.head_since_ns > STALLED_NS and not self.has_begun(self.inflight[0])

    def kill_orphan(self) -> None:
        """SIGKILL it directly. Only for when the zygote, whose task that is, died."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def disconnect(self) -> None:
        """Close the socket: an idle worker ends at once, a busy one after its invocation."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def release(self) -> None:
        """Give back every descriptor and mapping. The worker is gone."""
        self.disconnect()
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    # asyncio.Protocol -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if self.state is WorkerState.GONE:
            self.disconnect()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except codec.ProtocolError as error:
            self.disconnect()
            self._events.on_channel_lost(self, f"sent garbage: {error}")
            return
        for message in messages:
            if self._transport is None:
                return  # what came before was against the protocol
            if type(message) is m.Result:
                self._events.on_result(self, message)
            elif type(message) is m.Ready:
                self._events.on_ready(self)
            elif type(message) is m.Skipped:
                self._events.on_skipped(self, message.id)
            else:
                self._events.on_streamed(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._events.on_channel_lost(self, "")

"""One worker process as the pool sees it: its state, its socket, and the invocations in flight at it."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import deque
from enum import Enum, auto
from typing import Protocol, cast

from sandboxd.broker.running import Place
from sandboxd.errors import printable
from sandboxd.pool.faults import OWN_FRAME_BYTES
from sandboxd.pool.generation import Generation, GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.state import TRANSITIONS, ExitReason, WorkerEvent, WorkerState, advance
from sandboxd.pool.stream import FromGuest
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.page import SLOTS, StatusPage

BYTES_MAX = 1 << 40
"""More memory than any process can say that it has touched."""
MAX_QUOTED = 256
"""The number of characters of a decoding error that are told."""
STALLED_NS = 2_000_000_000
"""A worker that runs nothing and leaves a short frame unread for this long is replaced. Another one gets the frame."""
STALLED_NS_PER_BYTE = 125
"""It has so much more time for each byte of standard input, which is nearly all of a long frame: 8 MB/s."""


def _patience_ns(stdin_bytes: int) -> int:
    return STALLED_NS + stdin_bytes * STALLED_NS_PER_BYTE


class Role(Enum):
    """The purpose of a process."""

    WORKER = auto()
    """It runs invocations, one after another."""
    TEMPLATE = auto()
    """It is forked; it runs none. See `sandboxd.pool.templates`."""
    CHILD = auto()
    """It was forked from a template, and runs one invocation."""


class WorkerEvents(Protocol):
    """Receives a worker's messages, on the event loop."""

    def on_ready(self, worker: "Worker") -> None:
        """The worker sent READY."""

    def on_result(self, worker: "Worker", result: m.Result) -> None:
        """The worker sent a result."""

    def on_skipped(self, worker: "Worker", invocation_id: int) -> None:
        """The worker skipped a frame that was taken back."""

    def on_streamed(self, worker: "Worker", message: FromGuest) -> None:
        """The worker sent credit, a response's head, or a part of a body of a streaming invocation."""

    def on_template(self, worker: "Worker", message: m.Parked | m.NotParked) -> None:
        """The process says that it is a template, and whether its guest is parked."""

    def on_channel_lost(self, worker: "Worker", why: str) -> None:
        """The socket closed, or carried a protocol error (`why` then names it)."""


class Worker(asyncio.Protocol):
    """One worker.

    Parameters:
        serial: its number, unique in this server.
        generation: the generation from which it is forked.
        events: receives its messages.
        role: what it is for.
    """

    def __init__(self, serial: int, generation: Generation, events: WorkerEvents, role: Role = Role.WORKER) -> None:
        self.serial = serial
        self.generation = generation
        self.role = role
        self.state = WorkerState.STARTING
        self.pid = 0
        self.inflight: deque[Invocation] = deque()
        self.holding: dict[str, int] = {}
        """The number of invocations in flight at it, by binding."""
        self.asked_ns = time.monotonic_ns()
        self.busy_since_ns = 0
        self.head_since_ns = 0
        self.served = 0
        self.private_bytes = 0
        """The memory that a template's child reports to have touched, in bytes."""
        self.start_cpu_ns = 0
        """The processor time that a template's child says its start took."""
        self.exit_reason: ExitReason | None = None
        self.fault = ""
        """Its violation of the protocol; empty if there was none."""
        self.exited = ""
        """The way it ended; empty until it is reaped. Messages that it sent before may still be in its socket."""
        self.out_of_descriptors = False
        """Whether this process had no descriptors left for it."""
        self.spare = False
        """Whether it was started beyond the workers that the pool keeps. See `sandboxd.pool.spares`."""
        self.place: Place | None = None
        """The place at which the egress broker reads what it runs; None if its guests do not call out."""
        self._events = events
        self._decoder = codec.Decoder(codec.FromWorker)
        self._decoder.most_bytes = OWN_FRAME_BYTES
        self._transport: asyncio.Transport | None = None
        self._page: StatusPage | None = None
        self.connecting = False
        """Whether its socket is about to be read. What it says, and its end, come then."""
        self._pidfd = -1
        self._said_ready = False
        self._sent = 0
        self._taken_back: set[int] = set()
        self._stale_since_ns = 0
        self._stale_bytes = 0
        self._revoked: set[int] = set()

    def __repr__(self) -> str:
        return (
            f"<{self.role.name.title()} {self.serial} pid={self.pid} {self.state.name} inflight={len(self.inflight)}>"
        )

    def advance(self, event: WorkerEvent) -> None:
        """Move to the next state.

        Raises:
            IllegalTransitionError: the event cannot happen in its state.
        """
        state = TRANSITIONS.get((self.state, event))
        self.state = state if state is not None else advance(self.state, event)

    @property
    def name(self) -> str:
        """Its name in the log: `worker 7`."""
        return f"{self.role.name.lower()} {self.serial}"

    @property
    def stale(self) -> bool:
        """Whether its socket holds frames that were taken back and not skipped yet. Until then it gets no more work."""
        return bool(self._taken_back)

    @property
    def connected(self) -> bool:
        """Whether there may still be something to read from it."""
        return self._transport is not None

    def adopt(self, pid: int, page_fd: int, pidfd: int) -> None:
        """Take over the process and the descriptors that the zygote sent, except the socket: `connect` follows.

        Parameters:
            pid: its process id.
            page_fd: the descriptor of its status page; it is closed in any case.
            pidfd: its pidfd; `release` closes it.

        Raises:
            OSError: the page cannot be mapped.
        """
        self.pid = pid
        self._pidfd = pidfd
        try:
            self._page = StatusPage(page_fd)
        finally:
            os.close(page_fd)
        self.connecting = True

    async def connect(self, channel: socket.socket) -> None:
        """Begin to read from its socket."""
        if self.state is WorkerState.GONE:
            channel.close()
            return
        channel.setblocking(False)
        try:
            transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=channel)
        finally:
            self.connecting = False
        if not isinstance(cast(object, transport), asyncio.Transport):
            # uvloop's transport has the descriptor. If it is closed before uvloop has given it the object as well, the
            # object would close the descriptor's number a second time, which may be another file's by then.
            channel.detach()

    def send(self, invocation: Invocation, entry: GuestEntry, poll_ns: int = 0) -> None:
        """Send it an invocation. The caller has checked `may_accept`.

        Parameters:
            invocation: an invocation that is not in flight.
            entry: its binding in the generation of this worker.
            poll_ns: as in `sandboxd.wire.messages.Invoke`.
        """
        assert self._transport is not None
        self._sent += 1
        # As long a frame as the bindings in flight may need, and no longer: what is announced is kept in memory.
        decoder = self._decoder
        if entry.frame_bytes > decoder.most_bytes or not self.inflight:
            decoder.most_bytes = entry.frame_bytes
        invocation.number = self._sent
        invocation.worker_serial = self.serial
        self.inflight.append(invocation)
        if len(self.inflight) == 1 and self.place is not None:
            self.place.note(invocation.id, entry.index)
        stream = invocation.stream
        self._transport.write(
            codec.encode(
                m.Invoke(
                    id=invocation.id,
                    guest=entry.index,
                    call=invocation.call,
                    streaming=stream is not None,
                    body_follows=stream is not None and stream.body_follows,
                    poll_ns=poll_ns,
                )
            )
        )

    def answered(self, now_ns: int) -> None:
        """Take note that the invocation that it runs is over: the next one in its socket is that from now on."""
        invocation = self.inflight[0]
        self.leave(invocation)
        self.head_since_ns = now_ns
        self.served += 1
        if self._revoked and invocation.number in self._revoked:
            # The mark of a revocation that came too late.
            self._revoked.discard(invocation.number)
            if self._page is not None:
                self._page.restore(invocation.number)

    def leave(self, invocation: Invocation) -> None:
        """Have an invocation no longer in flight here. What it runs now is noted for the egress broker."""
        self.inflight.remove(invocation)
        if self.place is not None:
            if self.inflight:
                head = self.inflight[0]
                self.place.note(head.id, self.generation.entries[head.binding].index)
            else:
                self.place.clear()

    def write(self, message: m.Message) -> None:
        """Send a frame that is not an invocation: a part of a body for the one that it runs. Does nothing once dead."""
        if self._transport is not None:
            self._transport.write(codec.encode(message))

    def pause(self) -> None:
        """Stop reading from it. Its end is not noticed either until `resume` is called."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read from it again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def may_accept(self, ahead: int) -> bool:
        """Return whether it may be sent one more invocation if `ahead` of them may wait in its socket."""
        return len(self.inflight) <= ahead and not self._taken_back and len(self._revoked) < SLOTS // 2

    def has_begun(self, invocation: Invocation) -> bool:
        """Return whether the worker began this invocation. The answer is reliable once the worker is dead."""
        return self._page is None or self._page.word[0] >= invocation.number

    def revoke(self, invocation: Invocation) -> bool:
        """Take back an invocation that it has not begun.

        Returns:
            True if the invocation will not run and is no longer in flight here; False if it may have begun.
        """
        if self._page is None or not self._page.revoke(invocation.number):
            self._revoked.add(invocation.number)
            return False
        self.leave(invocation)
        invocation.worker_serial = 0
        self._stale_bytes = len(invocation.call.stdin) + (self._stale_bytes if self._taken_back else 0)
        self._taken_back.add(invocation.id)
        self._stale_since_ns = time.monotonic_ns()
        return True

    def skipped(self, invocation_id: int) -> Invocation | None:
        """Record that it skipped a frame.

        Returns:
            the invocation, if `revoke` had returned False for it: it did not run after all. None if it was taken back.

        Raises:
            ProtocolError: it skipped an invocation that it should have run.
        """
        for invocation in self.inflight:
            if invocation.id == invocation_id and invocation.number in self._revoked:
                self.leave(invocation)
                self._revoked.discard(invocation.number)
                return invocation
        if invocation_id not in self._taken_back:
            raise codec.ProtocolError(f"skipped invocation {invocation_id}, which was not taken back")
        self._taken_back.remove(invocation_id)
        return None

    def stalled(self, now_ns: int) -> bool:
        """Return whether it leaves its socket unread although it runs nothing: it is stopped, or its loop hangs."""
        if not self.inflight:
            return self.stale and now_ns - self._stale_since_ns > _patience_ns(self._stale_bytes)
        head = self.inflight[0]
        return now_ns - self.head_since_ns > _patience_ns(len(head.call.stdin)) and not self.has_begun(head)

    def kill_orphan(self) -> None:
        """Send SIGKILL directly. Use it only if the zygote, which otherwise kills workers, is dead."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def disconnect(self) -> None:
        """Close the socket. An idle worker then ends at once, a busy one after its invocation."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def release(self) -> None:
        """Close every descriptor and mapping of a dead worker."""
        self.disconnect()
        if self._page is not None:
            self._page.close()
            self._page = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    # asyncio.Protocol -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if self.state is WorkerState.GONE:
            self.disconnect()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except codec.ProtocolError as error:
            self.disconnect()
            # The words of an error may quote what the worker has sent.
            self._events.on_channel_lost(self, printable(f"sent garbage: {str(error)[:MAX_QUOTED]}"))
            return
        for message in messages:
            if self._transport is None:
                return  # an earlier message violated the protocol
            if type(message) is m.Result:
                self._events.on_result(self, message)
            elif type(message) is m.Ready:
                told = message.private_bytes, message.cpu_ns
                if self._said_ready or message.pid != self.pid or not 0 <= min(told) <= max(told) <= BYTES_MAX:
                    self._events.on_channel_lost(self, "sent READY twice, or for another process")
                    return
                self._said_ready = True
                self.private_bytes, self.start_cpu_ns = told
                self._events.on_ready(self)
            elif type(message) is m.Skipped:
                self._events.on_skipped(self, message.id)
            elif type(message) is m.Parked or type(message) is m.NotParked:
                self._events.on_template(self, message)
            else:
                self._events.on_streamed(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._events.on_channel_lost(self, "")

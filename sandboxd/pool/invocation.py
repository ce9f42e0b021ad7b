"""One invocation in the pool."""

from __future__ import annotations

import asyncio
from typing import Protocol

from sandboxd.pool.stream import Stream
from sandboxd.wire import messages as m


class Carrier(Protocol):
    """A pool, as its invocations know it."""

    def abandon(self, invocation: Invocation) -> None:
        """Cancel an invocation whose caller has gone away."""


class Invocation:
    """A call, its place in the pool, and the future on which its caller waits.

    Parameters:
        id: unique in this pool.
        binding: the name of its binding.
        call: what the guest is called with.
        future: receives the result or an error.
        queued_ns: the time.monotonic_ns() at which it came, or came back into the queue.
        stream: for a streaming invocation, the flow of its bodies.
    """

    __slots__ = (
        "binding",
        "call",
        "future",
        "held_ns",
        "id",
        "losses",
        "miss",
        "moved_to",
        "number",
        "queued_ns",
        "sent_ns",
        "stream",
        "worker_serial",
    )

    def __init__(
        self,
        id: int,
        binding: str,
        call: m.Call,
        future: asyncio.Future[m.Result],
        queued_ns: int,
        stream: Stream | None = None,
    ) -> None:
        self.id = id
        self.binding = binding
        self.call = call
        self.future = future
        self.queued_ns = queued_ns
        self.stream = stream
        self.held_ns = 0
        """The time.monotonic_ns() since which it could run and waits for a child instead; 0 if it does not."""
        self.sent_ns = 0
        """The time.monotonic_ns() at which it was last sent to a worker; 0 if it never was."""
        self.moved_to: Carrier | None = None
        """The pool that has it, if its binding got another one while it waited; None where it is where it came."""
        self.losses = 0
        """The number of workers that ended with it as their next invocation, not begun."""
        self.miss = ""
        """The reason why it is not started warm: a `sandboxd.pool.templates.Miss`; empty if it is, or nobody asked."""
        self.worker_serial = 0
        """The serial of the worker to which it was sent; 0 while it waits."""
        self.number = 0
        """The number of its frame at that worker."""

    def __repr__(self) -> str:
        where = f"at worker {self.worker_serial}" if self.worker_serial else "waiting"
        return f"<Invocation {self.id} of {self.binding} {'answered' if self.future.done() else where}>"

    def answer(self, result: m.Result) -> bool:
        """Give the caller the result. Return False if the caller was answered already or has gone away."""
        if self.future.done():
            return False
        self.future.set_result(result)
        return True

"""One invocation in the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sandboxd.pool.stream import Stream
from sandboxd.wire import messages as m

Receiver = Callable[[m.Result | Exception], None]
"""Takes the answer to an invocation: a result, or the reason why there is none (`Rejected`, `BindingUnavailable`). It
is called once, within a step of the pool: it must neither raise nor call the pool."""


class Carrier(Protocol):
    """A pool, as its invocations know it."""

    def abandon(self, invocation: Invocation) -> None:
        """Cancel an invocation whose caller has gone away."""


class Invocation:
    """A call, its place in the pool, and who receives its answer.

    Parameters:
        id: unique in this pool.
        binding: the name of its binding.
        call: what the guest is called with.
        receive: takes the answer.
        queued_ns: the time.monotonic_ns() at which it came, or came back into the queue.
        pool: the pool that has it.
        stream: for a streaming invocation, the flow of its bodies.
    """

    __slots__ = (
        "_receive",
        "binding",
        "call",
        "held_ns",
        "id",
        "losses",
        "miss",
        "number",
        "over",
        "pool",
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
        receive: Receiver,
        queued_ns: int,
        pool: Carrier,
        stream: Stream | None = None,
    ) -> None:
        self.id = id
        self.binding = binding
        self.call = call
        self._receive = receive
        self.over = False
        """Whether it was answered, or its caller has gone away."""
        self.queued_ns = queued_ns
        self.pool = pool
        """The pool that has it: another one than at first, if its binding got another one while it waited."""
        self.stream = stream
        self.held_ns = 0
        """The time.monotonic_ns() since which it could run and waits for a child instead; 0 if it does not."""
        self.sent_ns = 0
        """The time.monotonic_ns() at which it was last sent to a worker; 0 if it never was."""
        self.losses = 0
        """The number of workers that ended with it as their next invocation, not begun."""
        self.miss = ""
        """The reason why it is not started warm: a `sandboxd.pool.template.Miss`; empty if it is, or nobody asked."""
        self.worker_serial = 0
        """The serial of the worker to which it was sent; 0 while it waits."""
        self.number = 0
        """The number of its frame at that worker."""

    def __repr__(self) -> str:
        where = f"at worker {self.worker_serial}" if self.worker_serial else "waiting"
        return f"<Invocation {self.id} of {self.binding} {'over' if self.over else where}>"

    def answer(self, answer: m.Result | Exception) -> None:
        """Give the caller the result, or the reason why there is none. Does nothing if it is over."""
        if not self.over:
            self.over = True
            self._receive(answer)

    def abandon(self) -> None:
        """Cancel it, because its caller has gone away. Does nothing if it is over."""
        if not self.over:
            self.over = True
            self.pool.abandon(self)

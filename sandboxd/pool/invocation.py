"""One invocation, from the pool's side."""

import asyncio
from typing import TYPE_CHECKING

from sandboxd.pool.stream import Stream
from sandboxd.wire import messages as m

if TYPE_CHECKING:
    from sandboxd.pool.worker import Worker


class Invocation:
    """What was asked, where it is now, and the future its caller waits on.

    `worker` is None while it waits; `number` is its frame's number at that worker.
    """

    __slots__ = (
        "args",
        "binding",
        "deadline_ns",
        "env",
        "future",
        "http",
        "id",
        "number",
        "queued_ns",
        "sent_ns",
        "stdin",
        "stream",
        "worker",
    )

    def __init__(
        self,
        id: int,
        binding: str,
        future: "asyncio.Future[m.Result]",
        deadline_ns: int,
        args: tuple[bytes, ...],
        env: tuple[tuple[bytes, bytes], ...],
        stdin: bytes,
        http: m.HttpRequest | None,
        queued_ns: int,
        stream: Stream | None = None,
    ) -> None:
        self.id = id
        self.binding = binding
        self.future = future
        self.deadline_ns = deadline_ns
        self.args = args
        self.env = env
        self.stdin = stdin
        self.http = http
        self.queued_ns = queued_ns
        self.stream = stream
        self.sent_ns = 0
        self.worker: Worker | None = None
        self.number = 0

    def __repr__(self) -> str:
        where = f"at {self.worker!r}" if self.worker else "waiting"
        return f"<Invocation {self.id} of {self.binding} {'answered' if self.future.done() else where}>"

    def answer(self, result: m.Result) -> bool:
        """Hand the result over. False if the caller was answered already or went away."""
        if self.future.done():
            return False
        self.future.set_result(result)
        return True

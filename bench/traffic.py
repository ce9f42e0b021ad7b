"""Traffic for the benchmarks about failures and overload: every request is accounted for, one by one.

It is a plain HTTP/1.1 client on asyncio protocols. wrk is faster, but it tells neither which request got which answer
nor whether one got none. Here each request becomes one `Answer`, even if its connection closed or nobody answered it.

Two ways to send:

    steady   a number of connections, each with one request at a time (closed loop)
    offer    requests at instants that are fixed beforehand, whatever the server does (open loop); the latency counts
             from that instant, so that a wait for a connection, or for this program, is not hidden
"""

import asyncio
import json
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bench.answers import CLOSED, Answer

T = TypeVar("T")

UNANSWERED_AFTER_S = 40.0
"""The time after which a request counts as never answered. No binding here has a timeout above 10 s."""
KEPT_BODY = 512


@dataclass(frozen=True, slots=True)
class Shot:
    """One prepared request."""

    kind: str
    data: bytes
    """Head and body as they go over the wire."""
    hang_up_after_s: float = 0.0
    """The time after which the connection is closed without waiting for the answer; 0 waits."""


def shot(
    kind: str,
    binding: str,
    data: Any = None,
    args: str | None = None,
    *,
    body: bytes | None = None,
    hang_up_after_s: float = 0.0,
) -> Shot:
    """Prepare a binding request.

    Parameters:
        kind: the name of the request in tables.
        binding: the binding.
        data: `data`; None for none.
        args: `metadata.args`; None for none.
        body: replaces the body that is made of data and args.
        hang_up_after_s: see `Shot`.
    """
    if body is None:
        content: dict[str, Any] = {"operation": "execute"}
        if data is not None:
            content["data"] = data
        if args is not None:
            content["metadata"] = {"args": args}
        body = json.dumps(content).encode()
    head = f"POST /v1.0/bindings/{binding} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    return Shot(kind, head.encode() + body, hang_up_after_s)


class _Connection(asyncio.Protocol):
    """A connection, with one request at a time."""

    def __init__(self, traffic: "Traffic") -> None:
        self._traffic = traffic
        self._transport: asyncio.Transport | None = None
        self._pending: Answer | None = None
        self._then: Callable[[_Connection], None] | None = None
        self._received = bytearray()
        self._body_at = 0
        self._expected = -1
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no subclasses of asyncio's

    @property
    def usable(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing() and not self._last

    def send(self, one: Shot, answer: Answer, then: "Callable[[_Connection], None]") -> None:
        """Send a request; `then` is called when its answer is recorded."""
        assert self._transport is not None
        assert self._pending is None
        self._pending, self._then = answer, then
        answer.sent_ns = time.monotonic_ns()
        self._transport.write(one.data)
        if one.hang_up_after_s:
            asyncio.get_running_loop().call_later(one.hang_up_after_s, self._hang_up, answer)

    def close(self) -> None:
        """Close without waiting."""
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self, answer: Answer) -> None:
        if self._pending is answer:
            answer.left = True
            self.close()

    def data_received(self, data: bytes) -> None:
        answer = self._pending
        if answer is None:
            raise RuntimeError(f"an answer to no request: {data[:200]!r}")
        received = self._received
        received += data
        if self._expected < 0:
            at = received.find(b"\r\n\r\n")
            if at < 0:
                return
            head = bytes(received[:at]).lower()
            answer.status = int(head[9:12])
            answer.retry_after = _header(head, b"\r\nretry-after:")
            self._last = _header(head, b"\r\nconnection:") == "close"
            self._body_at = at + 4
            self._expected = at + 4 + int(_header(head, b"\r\ncontent-length:"))
        if len(received) < self._expected:
            return
        if len(received) > self._expected:
            raise RuntimeError(f"more than one answer to one request: {bytes(received[:400])!r}")
        answer.body = bytes(received[self._body_at : self._body_at + KEPT_BODY])
        received.clear()
        self._expected = -1
        self._finish(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._traffic.forget(self)
        if self._pending is not None:
            self._pending.status = CLOSED
            self._finish(self._pending)

    def _finish(self, answer: Answer) -> None:
        answer.done_ns = time.monotonic_ns()
        then, self._pending, self._then = self._then, None, None
        if self._last:
            self.close()
        self._traffic.record(answer)
        assert then is not None
        then(self)


def _header(head: bytes, name: bytes) -> str:
    at = head.find(name)
    return "" if at < 0 else head[at + len(name) :].split(b"\r\n", 1)[0].strip().decode("latin-1")


class Traffic:
    """Sends requests and keeps every answer.

    Parameters:
        port: the server's port on loopback.
        connections_max: the most connections of an open loop. Further requests that are due wait.
        keep: whether to keep answers in `answers`. Otherwise they are only passed to `seen`.
    """

    def __init__(self, port: int, *, connections_max: int = 1000, keep: bool = True) -> None:
        self.answers: list[Answer] = []
        self.seen: Callable[[Answer], None] | None = None
        self.sent = 0
        """The number of requests that were sent, or wait to be."""
        self.late_ms: list[float] = []
        """Open loop: the delay of each request after its due instant, in milliseconds."""
        self._port = port
        self._keep = keep
        self._connections_max = connections_max
        self._connections: set[_Connection] = set()
        self._idle: list[_Connection] = []
        self._waiting: deque[tuple[Shot, Answer]] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._pending: dict[int, Answer] = {}

    def __repr__(self) -> str:
        return f"<Traffic {self.sent} sent, {len(self._pending)} pending, {len(self._connections)} connections>"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    async def steady(self, connections: int, pick: Callable[[], Shot | None]) -> None:
        """Run a closed loop on some connections until `pick` returns None to each.

        Parameters:
            connections: the number of connections.
            pick: returns the next request of a connection.
        """
        async with asyncio.TaskGroup() as tasks:
            for _ in range(connections):
                tasks.create_task(self._steady_one(pick))

    async def offer(self, rate: float, seconds: float, pick: Callable[[], Shot], *, seed: int = 1) -> None:
        """Run an open loop with Poisson arrivals. Return when all requests are sent, not when all are answered.

        Parameters:
            rate: requests per second.
            seconds: the duration.
            pick: returns the next request.
            seed: of the random arrivals.
        """
        chance = random.Random(seed)
        due = time.monotonic_ns()
        end = due + int(seconds * 1e9)
        while (due := due + int(chance.expovariate(rate) * 1e9)) < end:
            ahead = due - time.monotonic_ns()
            if ahead > 0:
                await asyncio.sleep(ahead / 1e9)
            elif self.sent % 16 == 0:
                await asyncio.sleep(0)  # behind schedule: let answers arrive
            one = pick()
            self._launch(one, Answer(one.kind, due))

    async def settle(self, timeout_s: float = UNANSWERED_AFTER_S) -> None:
        """Wait for all answers. Requests without one are recorded as `answers.SILENT`."""
        end = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < end:  # noqa: ASYNC110 - every 20 ms, once per benchmark
            await asyncio.sleep(0.02)
        for answer in list(self._pending.values()):
            answer.done_ns = time.monotonic_ns()
            self.record(answer)

    async def once(self, one: Shot) -> Answer:
        """Send one request on a connection of its own. Return its answer."""
        left = [one]
        await self.steady(1, lambda: left.pop() if left else None)
        return self.answers[-1]

    async def close(self) -> None:
        """Close all connections, and wait until they are closed."""
        for connection in list(self._connections):
            connection.close()
        while self._connections:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)

    def forget(self, connection: _Connection) -> None:
        """Record the end of a connection."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def record(self, answer: Answer) -> None:
        """Record the end of a request."""
        if self._pending.pop(id(answer), None) is None:
            return
        if self._keep:
            self.answers.append(answer)
        if self.seen is not None:
            self.seen(answer)

    # ------------------------------------------------------------------------------------------------------------------

    async def _steady_one(self, pick: Callable[[], Shot | None]) -> None:
        loop = asyncio.get_running_loop()
        connection: _Connection | None = None
        while (one := pick()) is not None:
            if connection is None or not connection.usable:
                connection = await self._connect()
            answer = Answer(one.kind, time.monotonic_ns())
            over: asyncio.Future[None] = loop.create_future()

            def done(_: _Connection, over: "asyncio.Future[None]" = over) -> None:
                if not over.done():
                    over.set_result(None)

            self._register(answer)
            connection.send(one, answer, done)
            try:
                await asyncio.wait_for(over, UNANSWERED_AFTER_S)
            except TimeoutError:
                answer.done_ns = time.monotonic_ns()
                self.record(answer)
                connection.close()
        if connection is not None:
            connection.close()

    def _register(self, answer: Answer) -> None:
        self.sent += 1
        self._pending[id(answer)] = answer

    def _launch(self, one: Shot, answer: Answer) -> None:
        self._register(answer)
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                self._send(connection, one, answer)
                return
        self._waiting.append((one, answer))
        self._open_another()

    def _open_another(self) -> None:
        if len(self._connections) + len(self._opening) < self._connections_max:
            task = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    async def _open(self) -> None:
        self._next(await self._connect())

    def _opened(self, task: "asyncio.Task[None]") -> None:
        self._opening.discard(task)
        if not task.cancelled():
            task.result()

    def _next(self, connection: _Connection) -> None:
        if not connection.usable:
            if self._waiting:
                self._open_another()
        elif self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _send(self, connection: _Connection, one: Shot, answer: Answer) -> None:
        self.late_ms.append((time.monotonic_ns() - answer.due_ns) / 1e6)
        connection.send(one, answer, self._next)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        self._connections.add(connection)
        return connection


def mix(shots: Sequence[tuple[float, Shot]], seed: int = 1) -> Callable[[], Shot]:
    """Return a function that draws requests at random by weight, the same ones in every run."""
    chance = random.Random(seed)
    weights = [weight for weight, _ in shots]
    kinds = [one for _, one in shots]
    return lambda: chance.choices(kinds, weights)[0]


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Do as asyncio.run, on uvloop if it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())

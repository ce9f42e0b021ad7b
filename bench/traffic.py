"""Traffic for the benchmarks about failures and overload: every request is accounted for, one by one.

A plain HTTP/1.1 client on asyncio protocols. wrk is faster but tells neither which request got which answer nor whether
one got none at all; here each request becomes one `Answer`, also those whose connection closed or that nobody answered.

Two ways to send:

    steady   a number of connections, each with one request at a time (closed loop)
    offer    requests at instants fixed beforehand, whatever the server does (open loop); latency counts from that
             instant, so that waiting for a connection, or for this program, is not hidden
"""

import asyncio
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

UNANSWERED_AFTER_S = 40.0
"""A request without an answer for this long counts as never answered. No binding here has a timeout above 10 s."""
CLOSED = 0
"""Status of a request whose connection ended before its answer was complete."""
SILENT = -1
"""Status of a request that was not answered in time."""
KEPT_BODY = 512

_REASONS = (
    "the worker process was lost",
    "no worker is free and too many requests are waiting already",
    "no worker became free in time",
    "the server is shutting down",
    "module closed with context deadline exceeded",
    "module closed with context canceled",
    "module closed with exit_code",
    "couldn't find output binding",
    "does not support operation",
    "operation field is missing",
    "failed deserializing HTTP body",
    "is still loading",
    "stdout",
    "memory",
    "wasm error",
)


@dataclass(slots=True)
class Answer:
    """The fate of one request. Instants are CLOCK_MONOTONIC nanoseconds."""

    kind: str
    """Name of the request."""
    due_ns: int
    """When it was to be sent."""
    sent_ns: int = 0
    done_ns: int = 0
    status: int = SILENT
    retry_after: str = ""
    body: bytes = b""
    """The beginning of it."""
    left: bool = False
    """We hung up on purpose."""

    @property
    def latency_ms(self) -> float:
        """From when it was due to the last byte of its answer. Milliseconds."""
        return (self.done_ns - self.due_ns) / 1e6

    @property
    def answered_ms(self) -> float:
        """From when it was sent to the last byte of its answer. Milliseconds."""
        return (self.done_ns - self.sent_ns) / 1e6

    @property
    def cause(self) -> str:
        """Return how it ended, in a few words, for a table."""
        if self.left:
            return "caller hung up"
        if self.status in (200, CLOSED, SILENT):
            return {200: "200", CLOSED: "connection closed", SILENT: "never answered"}[self.status]
        try:
            message = str(json.loads(self.body)["message"])
        except (ValueError, KeyError, TypeError):
            message = self.body.decode("utf-8", "replace")
        return f"{self.status} " + next((text for text in _REASONS if text in message), message[:60])


@dataclass(frozen=True, slots=True)
class Shot:
    """One prepared request."""

    kind: str
    data: bytes
    """Head and body as they go over the wire."""
    hang_up_after_s: float = 0.0
    """Close the connection this long after sending instead of waiting for the answer; 0 waits."""


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
        kind: name of this request in tables.
        args: `metadata.args`.
        body: instead of one made of data and args.
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
    """One connection; one request at a time."""

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
        port: of the server on loopback.
        connections_max: an open loop opens at most so many connections; what is due beyond that waits.
        keep: keep answers in `answers`; else they are only passed to `seen`.
    """

    def __init__(self, port: int, *, connections_max: int = 1000, keep: bool = True) -> None:
        self.answers: list[Answer] = []
        self.seen: Callable[[Answer], None] | None = None
        self.sent = 0
        """Requests that left, or wait to leave."""
        self.late_ms: list[float] = []
        """Open loop: how much later than due each request was sent."""
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
        """Open now."""
        return len(self._connections)

    async def steady(self, connections: int, pick: Callable[[], Shot | None]) -> None:
        """Run a closed loop on some connections until `pick` returns None to each.

        Parameters:
            pick: the next request of a connection.
        """
        async with asyncio.TaskGroup() as tasks:
            for _ in range(connections):
                tasks.create_task(self._steady_one(pick))

    async def offer(self, rate: float, seconds: float, pick: Callable[[], Shot], *, seed: int = 1) -> None:
        """Run an open loop with Poisson arrivals. Returns when all are sent, not when all are answered.

        Parameters:
            rate: requests per second.
        """
        chance = random.Random(seed)
        due = time.monotonic_ns()
        end = due + int(seconds * 1e9)
        while (due := due + int(chance.expovariate(rate) * 1e9)) < end:
            ahead = due - time.monotonic_ns()
            if ahead > 0:
                await asyncio.sleep(ahead / 1e9)
            elif self.sent % 16 == 0:
                await asyncio.sleep(0)  # behind the plan: let answers in between
            one = pick()
            self._launch(one, Answer(one.kind, due))

    async def settle(self, timeout_s: float = UNANSWERED_AFTER_S) -> None:
        """Wait for all answers. Those that do not come are recorded as SILENT."""
        end = time.monotonic() + timeout_s
        while self._pending and time.monotonic() < end:  # noqa: ASYNC110 - every 20 ms, once per benchmark
            await asyncio.sleep(0.02)
        for answer in list(self._pending.values()):
            answer.done_ns = time.monotonic_ns()
            self.record(answer)

    async def once(self, one: Shot) -> Answer:
        """Send one request on a connection of its own; its answer."""
        left = [one]
        await self.steady(1, lambda: left.pop() if left else None)
        return self.answers[-1]

    async def close(self) -> None:
        """Close all connections and wait until they are."""
        for connection in list(self._connections):
            connection.close()
        while self._connections:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(0.005)

    def forget(self, connection: _Connection) -> None:
        """A connection ended."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def record(self, answer: Answer) -> None:
        """A request is over."""
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
    """Requests drawn at random by weight, the same ones in every run."""
    chance = random.Random(seed)
    weights = [weight for weight, _ in shots]
    kinds = [one for _, one in shots]
    return lambda: chance.choices(kinds, weights)[0]


def quantiles(values: Iterable[float], *which: float) -> list[float]:
    """Order statistics (nearest rank); 0 for no values.

    Parameters:
        which: in [0, 1].
    """
    ordered = sorted(values)
    return [round(ordered[max(0, math.ceil(q * len(ordered)) - 1)], 3) if ordered else 0.0 for q in which]


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    return dict(zip(("p50", "p99", "max"), quantiles(values, 0.5, 0.99, 1.0), strict=True))


def tally(answers: Iterable[Answer]) -> dict[str, int]:
    """Return the number of requests by their end, the most frequent first."""
    counts: dict[str, int] = {}
    for answer in answers:
        cause = answer.cause
        counts[cause] = counts.get(cause, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def unanswered(counts: Mapping[str, int]) -> int:
    """Requests without an answer in a `tally`: a connection that closed first gave none."""
    return counts.get("never answered", 0) + counts.get("connection closed", 0)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """asyncio.run, on uvloop where it is installed."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())

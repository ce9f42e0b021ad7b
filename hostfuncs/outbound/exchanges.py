"""All requests of one invocation: started, driven, waited for, and cleaned away."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpcore2

from hostfuncs.outbound.admission import Refused, admit
from hostfuncs.outbound.body import RequestBody
from hostfuncs.outbound.errors import DeadlineExceeded
from hostfuncs.outbound.exchange import Exchange
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.shapes import Options, OutboundLimits, Request, UsageRecord

if TYPE_CHECKING:
    from hostfuncs.outbound.sender import Outbound

_CHECK_EVERY_S = 0.5
_PAUSE_S = 0.001
"""A pause of the loop longer than this is taken off the clocks of what was waited for."""


class Exchanges:
    """All requests of one invocation. Made by `Outbound.begin`; `close` ends it, always.

    Not for more than one thread. Nothing moves unless `wait` or `turn` is called.
    """

    def __init__(
        self,
        outbound: "Outbound",
        policy: Policy,
        limits: OutboundLimits,
        deadline_ns: int,
        check: Callable[[], None] | None,
    ) -> None:
        self._outbound = outbound
        self._policy = policy
        self._limits = limits
        self._deadline_ns = deadline_ns
        self._check = check
        self._live: dict[Exchange, None] = {}
        self._slots: asyncio.Semaphore | None = None
        self._pool: httpcore2.AsyncConnectionPool | None = None
        self._started = 0
        self._refusals = 0
        self._records: list[UsageRecord] = []
        self._ready: Callable[[], bool] | None = None
        self._failure: BaseException | None = None
        self._left_at = 0.0
        self._attended = -1

    def __repr__(self) -> str:
        return f"<Exchanges {self._started} started, {len(self._live)} live>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The worker's loop."""
        return self._outbound.loop

    @property
    def limits(self) -> OutboundLimits:
        """The invocation's ceilings."""
        return self._limits

    def request_body(self, content_length: int | None = None, capacity: int | None = None) -> RequestBody:
        """Make a body to write to, before or after `start`.

        Parameters:
            content_length: the size announced in the header, if it is; `finish` then insists on it. Bytes.
            capacity: bytes it holds before `permit` says 0; `buffer_bytes` by default, at most `body_bytes`.
        """
        room = self._limits.buffer_bytes if capacity is None else capacity
        return RequestBody(
            self.loop, self._limits, self.notify, content_length, min(room, max(1, self._limits.body_bytes))
        )

    def start(self, request: Request, options: Options | None = None, body: RequestBody | None = None) -> Exchange:
        """Begin a request. Never blocks.

        Parameters:
            request: what to send; unchecked.
            options: timeouts.
            body: from `request_body`; None sends no content.

        Raises:
            OutboundError: refused at once. HTTP-protocol-error (scheme, forbidden or malformed header),
                HTTP-request-method-invalid, HTTP-request-URI-invalid (authority, path), HTTP-request-URI-too-long,
                HTTP-request-denied and destination-IP-prohibited (policy), HTTP-request-header-section-size,
                HTTP-request-header-size, HTTP-request-body-size. The refusal is in the usage records.
        """
        began = time.monotonic_ns()
        try:
            plan = admit(request, body, self._policy, self._limits, self._started)
        except Refused as exc:
            self._refused(exc.rule, exc.code.name, began, exc.reason)
            raise
        self._started += 1
        exchange = Exchange(self, plan, options or Options(), body, began)
        self._live[exchange] = None
        return exchange

    def wait(self, ready: Callable[[], bool], until_ns: int | None = None) -> bool:
        """Drive the loop until `ready()` holds.

        Parameters:
            ready: a question over exchanges and bodies of this invocation; cheap, asked after every change.
            until_ns: CLOCK_MONOTONIC instant at which to give up.

        Returns:
            True once `ready()` holds, False at `until_ns`.

        Raises:
            DeadlineExceeded: the invocation's deadline came first.
            Exception: whatever `check` (see `Outbound.begin`) or `ready` raised.
        """
        if ready():
            return True
        loop = self.loop
        limit_ns = self._deadline_ns if until_ns is None else min(self._deadline_ns, until_ns)
        self._enter()
        timer: asyncio.TimerHandle | None = None
        try:
            self._ready = ready
            while True:
                left_s = (limit_ns - time.monotonic_ns()) / 1e9
                if left_s > 0:
                    pause = left_s if self._check is None else min(left_s, _CHECK_EVERY_S)
                    timer = loop.call_later(pause, loop.stop)
                else:
                    loop.call_soon(loop.stop)
                loop.run_forever()
                if timer is not None:
                    timer.cancel()
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                if ready():
                    return True
                if self._check is not None:
                    self._check()
                now = time.monotonic_ns()
                if now >= self._deadline_ns:
                    raise DeadlineExceeded
                if now >= limit_ns:
                    return False
        finally:
            self._ready = None
            self._left_at = time.monotonic()

    def turn(self) -> None:
        """Let everything that can move do so, without waiting. For questions that must not block but need an answer."""
        if not self._live:
            return
        self._enter()
        loop = self.loop
        # One pass starts what is new and sees what arrived, a second lets the tasks act on it.
        for _ in range(2):
            loop.call_soon(loop.stop)
            loop.run_forever()
        self._left_at = time.monotonic()

    def attend(self, fd: int, arrived: Callable[[], None]) -> None:
        """Also wait for something that is no request: call `arrived` whenever `fd` is readable, until `close`.

        Parameters:
            fd: a descriptor; stays the caller's.
            arrived: reads from it without waiting. What it raises is raised by `wait`.
        """
        self._attended = fd

        def readable() -> None:
            try:
                arrived()
            except BaseException as exc:  # noqa: BLE001 - handed to whoever waits, as in `notify`
                self._failure = self._failure or exc
                self.loop.stop()
            else:
                self.notify()

        self.loop.add_reader(fd, readable)

    def notify(self) -> None:
        """Engine: something changed; stop driving if that is what was waited for."""
        if self._ready is not None and self._failure is None:
            try:
                if self._ready():
                    self.loop.stop()
            except BaseException as exc:  # noqa: BLE001 - handed to whoever waits, not to the task that changed something
                self._failure = exc
                self.loop.stop()

    def close(self) -> list[UsageRecord]:
        """End the invocation: cancel and close what is left, keep connections that are clean, and report.

        Returns:
            One record per request that was started or refused.
        """
        if self._attended >= 0:
            self.loop.remove_reader(self._attended)
            self._attended = -1
        for exchange in list(self._live):
            exchange.close()
        if self._started:
            self._started = 0
            loop = self.loop
            # Cancelled tasks end, and closed transports give their descriptors back, in the loop's next passes.
            pending = list(asyncio.all_tasks(loop))
            if pending:
                loop.run_until_complete(asyncio.wait(pending, timeout=1.0))
            if any(not task.done() for task in pending):
                self._outbound.reset()
            elif pending:
                loop.call_soon(loop.stop)
                loop.run_forever()
            self._live.clear()
        return self._records

    # for Exchange

    @property
    def outbound(self) -> "Outbound":
        """The worker's engine."""
        return self._outbound

    @property
    def policy(self) -> Policy:
        """Who may be called."""
        return self._policy

    @property
    def pool(self) -> httpcore2.AsyncConnectionPool:
        """The connections this invocation may use."""
        if self._pool is None:
            self._pool = self._outbound.pool(self._policy)
        return self._pool

    @property
    def slots(self) -> asyncio.Semaphore:
        """Held by each request in flight."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._limits.concurrency)
        return self._slots

    def ended(self, exchange: Exchange, outcome: str, denied: str = "") -> None:
        """An exchange is over."""
        self._live.pop(exchange, None)
        self._record(exchange.plan.rule, outcome, exchange.began_ns, denied)
        self.notify()

    def _refused(self, rule: str, outcome: str, began_ns: int, denied: str) -> None:
        # A guest that is refused for ever must not fill the host's memory with the reports of it.
        if self._refusals < self._limits.requests + 64:
            self._refusals += 1
            self._record(rule, outcome, began_ns, denied)

    def _record(self, rule: str, outcome: str, began_ns: int, denied: str) -> None:
        self._records.append(
            UsageRecord(rule=rule, outcome=outcome, duration_ns=time.monotonic_ns() - began_ns, denied=denied)
        )

    def _enter(self) -> None:
        """The loop stood still while the guest computed: nobody listened, so no origin was late."""
        self._outbound.era += 1
        if self._left_at:
            pause = time.monotonic() - self._left_at
            if pause > _PAUSE_S:
                for exchange in self._live:
                    exchange.shift(pause)

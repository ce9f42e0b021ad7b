"""The requests of one invocation: starts them, runs the event loop for them, waits for them, and cleans up."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from hostfuncs import texts
from hostfuncs.account import RECORD_BYTES, Account
from hostfuncs.ending import DeadlineExceeded
from hostfuncs.outbound.admission import Refused, admit
from hostfuncs.outbound.body import RequestBody
from hostfuncs.outbound.connector import Client
from hostfuncs.outbound.exchange import Exchange
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.pool import Pool
from hostfuncs.outbound.values import Options, OutboundLimits, Request, UsageRecord

_CHECK_EVERY_S = 0.5
_NEVER = float("inf")
_TARGETS_KEPT = 8
"""The number of an invocation's first refused requests whose targets are recorded."""
_DEFAULTS = Options()


class PooledClient(Client, Protocol):
    """A client with its connection pools."""

    def pool(self, policy: Policy) -> Pool:
        """Return the connections of a policy."""
        ...


class Exchanges:
    """The requests of one invocation. `Outbound.begin` makes it, and `close` must always end it.

    It is for one thread. Nothing is sent or received unless `wait` or `turn` is called. The timeouts of exchanges run
    on a clock that stops while the event loop does not run: no origin can be late while the guest computes and nobody
    reads. All exchanges share one alarm, which is a part of `wait`.
    """

    _exchange_type = Exchange

    def __init__(
        self,
        outbound: PooledClient,
        policy: Policy,
        limits: OutboundLimits,
        deadline_ns: int,
        check: Callable[[], None] | None,
        account: Account,
    ) -> None:
        self.outbound = outbound
        """The HTTP client of the worker."""
        self.account = account
        """Counts the bytes that are held for the guest."""
        self.policy = policy
        """The egress policy."""
        self.limits = limits
        """The limits of the invocation."""
        self._deadline_ns = deadline_ns
        self._check = check
        self._live: dict[Exchange, None] = {}
        self._fresh: deque[Exchange] = deque()
        self._flying = 0
        self._beginning = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool | None = None
        self._started = 0
        self._refusals = 0
        self._targets = 0
        self._records: list[UsageRecord] = []
        self._ready: Callable[[], bool] | None = None
        self._failure: BaseException | None = None
        self._left_at = 0.0
        self._stopped_s = 0.0
        self._next_due = _NEVER
        self._alarm: asyncio.TimerHandle | None = None
        self._watched = -1

    def __repr__(self) -> str:
        return f"<Exchanges {self._started} started, {len(self._live)} live>"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The worker's event loop."""
        loop = self._loop
        if loop is None:
            loop = self._loop = self.outbound.loop
        return loop

    def request_body(self, content_length: int | None = None, capacity: int | None = None) -> RequestBody:
        """Make a body to write to, before or after `start`.

        Parameters:
            content_length: the length in bytes that the header announces, if it does. `finish` then requires it.
            capacity: the bytes that it holds until `permit` returns 0; by default `buffer_bytes`, at most `body_bytes`.
        """
        room = self.limits.buffer_bytes if capacity is None else capacity
        return RequestBody(
            self.loop,
            self.limits,
            self.account,
            self.notify,
            content_length,
            min(room, max(1, self.limits.body_bytes)),
        )

    def whole_body(self, data: bytearray, owner: object) -> RequestBody:
        """Make a body of bytes that are complete and that the account counts already. See `RequestBody.hold`."""
        body = self.request_body(capacity=len(data))
        body.hold(data, owner)
        return body

    def start(self, request: Request, options: Options | None = None, body: RequestBody | None = None) -> Exchange:
        """Begin a request. It never blocks.

        Parameters:
            request: the request, unchecked.
            options: its timeouts.
            body: a body from `request_body`; None sends no content.

        Raises:
            OutboundError: the request is refused. HTTP-protocol-error (scheme, forbidden or malformed header),
                HTTP-request-method-invalid, HTTP-request-URI-invalid (authority, path), HTTP-request-URI-too-long,
                HTTP-request-denied and destination-IP-prohibited (policy), HTTP-request-header-section-size,
                HTTP-request-header-size, HTTP-request-body-size. The refusal is in the usage records.
        """
        began = time.monotonic_ns()
        try:
            plan = admit(request, body, self.policy, self.limits, self._started, self.pool.known)
        except Refused as exc:
            self._refused(exc.rule, exc.code.name, began, exc.reason, f"{request.scheme}://{request.authority}")
            raise
        self._started += 1
        if body is not None:
            body.sent = True
        exchange = self._exchange_type(self, plan, options or _DEFAULTS, body, began)
        self._live[exchange] = None
        self._fresh.append(exchange)
        return exchange

    def wait(self, ready: Callable[[], bool], until_ns: int | None = None) -> bool:
        """Run the event loop until `ready()` is true.

        Parameters:
            ready: a cheap predicate over exchanges and bodies of this invocation. It is called after every change.
            until_ns: CLOCK_MONOTONIC instant at which to give up; None waits until the deadline.

        Returns:
            True once `ready()` is true, False at `until_ns`.

        Raises:
            DeadlineExceeded: the invocation's deadline came first.
            Exception: any exception of `check` (see `Outbound.begin`) or `ready`.
        """
        if self._failure is None and ready():
            return True
        loop = self.loop
        limit_ns = self._deadline_ns if until_ns is None else min(self._deadline_ns, until_ns)
        self._enter()
        try:
            self._raise_failure()
            while not ready():
                left_s = (limit_ns - time.monotonic_ns()) / 1e9
                if left_s > 0:
                    self._run(ready, left_s if self._check is None else min(left_s, _CHECK_EVERY_S))
                else:
                    loop.call_soon(loop.stop)
                    loop.run_forever()
                self._raise_failure()
                self._expire()
                if ready():
                    return True
                if self._check is not None:
                    self._check()
                now = time.monotonic_ns()
                if now >= self._deadline_ns:
                    raise DeadlineExceeded
                if now >= limit_ns:
                    return False
            return True
        finally:
            self._left_at = time.monotonic()

    def _run(self, ready: Callable[[], bool], pause_s: float) -> None:
        """Run the loop until `ready()` is true, a timeout of an exchange is over, or `pause_s` seconds are."""
        loop = self.loop
        when = min(loop.time() + pause_s, self._next_due + self._stopped_s)
        self._ready = ready
        self._alarm = loop.call_at(when, loop.stop)
        try:
            loop.run_forever()
        finally:
            self._ready = None
            self._alarm.cancel()
            self._alarm = None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def break_off(self, reason: BaseException) -> None:
        """Exchange: raise an exception in the guest's call of `wait` or `turn`."""
        self._failure = self._failure or reason
        if self._ready is not None:
            self._ready = None
            self.loop.stop()

    def turn(self) -> None:
        """Send and receive what is possible without waiting. It is for predicates that must not block.

        Raises:
            DeadlineExceeded: the invocation's deadline has passed. Otherwise an origin that always sends more could
                keep a guest running for ever.
        """
        if not self._live:
            return
        if time.monotonic_ns() >= self._deadline_ns:
            raise DeadlineExceeded
        self._enter()
        loop = self.loop
        # The first pass starts new exchanges and sees what has arrived. In the second, tasks act on it.
        for _ in range(2):
            loop.call_soon(loop.stop)
            loop.run_forever()
        self._expire()
        self._left_at = time.monotonic()
        self._raise_failure()

    def watch(self, fd: int, arrived: Callable[[], None]) -> None:
        """Also wait for something that is not a request: call `arrived` whenever `fd` is readable, until `close`.

        Parameters:
            fd: a descriptor, which stays the caller's.
            arrived: reads from it without waiting. `wait` raises its exceptions.
        """
        self._watched = fd

        def readable() -> None:
            try:
                arrived()
            except BaseException as exc:  # noqa: BLE001 - `wait` raises it, as in `notify`
                self.break_off(exc)
            else:
                self.notify()

        self.loop.add_reader(fd, readable)

    def notify(self) -> None:
        """Exchange: something has changed. Stop the event loop if the guest's predicate is true now."""
        if self._ready is not None and self._failure is None:
            try:
                if self._ready():
                    self._ready = None
                    self.loop.stop()
            except BaseException as exc:  # noqa: BLE001 - for `wait`, and not for the task that changed something
                self.break_off(exc)

    def close(self) -> list[UsageRecord]:
        """End the invocation: cancel and close the exchanges that are left. Connections in order are kept.

        Returns:
            one record for each request that was started or refused.
        """
        if self._watched >= 0:
            self.loop.remove_reader(self._watched)
            self._watched = -1
        left = list(self._live)
        for exchange in left:
            exchange.close()
        if any(not exchange.over() for exchange in left):
            # It ends in the loop's next pass, which must come before the next invocation.
            self.outbound.unsettled = True
        self._started = 0
        self._live.clear()
        self._fresh.clear()
        self.outbound.settle()
        return self._records

    def sending(self) -> bool:
        """Return whether a request that was started still has bytes of its body to send."""
        return any(exchange.sending() for exchange in self._live)

    # for Exchange

    @property
    def pool(self) -> Pool:
        """The connections that this invocation may use."""
        if self._pool is None:
            self._pool = self.outbound.pool(self.policy)
        return self._pool

    def due(self, seconds: float) -> float:
        """Return the instant at which `seconds` will have passed, on the clock that stops with the event loop."""
        due = time.monotonic() - self._stopped_s + seconds
        if due < self._next_due:
            self._next_due = due
            if self._alarm is not None and due + self._stopped_s < self._alarm.when():
                self._alarm.cancel()
                self._alarm = self.loop.call_at(due + self._stopped_s, self.loop.stop)
        return due

    def ended(self, exchange: Exchange, outcome: str, denied: str = "") -> None:
        """Record the end of an exchange."""
        self._live.pop(exchange, None)
        if exchange.begun:
            self._flying -= 1
            if self._fresh and not self._beginning:
                self.loop.call_soon(self._begin)
        authority = exchange.plan.authority
        target = f"{authority.host}:{authority.port}" if denied else ""
        self._record(exchange.plan.rule, outcome, exchange.began_ns, denied, target)
        self.notify()

    def _refused(self, rule: str, outcome: str, began_ns: int, denied: str, target: str) -> None:
        # A guest that goes on after refusals must not fill the host's memory with their records.
        if self._refusals < self.limits.requests + 64:
            self._refusals += 1
            self.account.take(RECORD_BYTES)
            self._record(rule, outcome, began_ns, denied, target)

    def _record(self, rule: str, outcome: str, began_ns: int, denied: str, target: str) -> None:
        self._records.append(
            UsageRecord(
                rule=rule,
                outcome=outcome,
                duration_ns=time.monotonic_ns() - began_ns,
                denied=denied,
                target=self._kept(target) if denied else "",
            )
        )

    def _kept(self, target: str) -> str:
        """Return a target as it is recorded: cut, and empty after the first ones. The account counts none of them."""
        self._targets += 1
        return target[: texts.TARGET_CHARS] if self._targets <= _TARGETS_KEPT else ""

    def _enter(self) -> None:
        """Prepare for a run of the event loop."""
        self.outbound.loop_epoch += 1
        if self._left_at:
            self._stopped_s += time.monotonic() - self._left_at
            self._left_at = 0.0
        if self._fresh:
            self._begin()

    def _begin(self) -> None:
        """Begin the exchanges that were started, as far as the limit of requests in flight allows."""
        if self._beginning:
            return
        self._beginning = True
        try:
            while self._fresh and self._flying < self.limits.concurrency:
                exchange = self._fresh.popleft()
                if not exchange.closed:
                    self._flying += 1
                    exchange.begin()
        finally:
            self._beginning = False

    def _expire(self) -> None:
        """Fail every exchange whose timeout is over."""
        now = time.monotonic() - self._stopped_s
        if now < self._next_due:
            return
        self._next_due = _NEVER
        for exchange in list(self._live):
            if exchange.due <= now:
                exchange.expire()
            elif exchange.due < self._next_due:
                self._next_due = exchange.due

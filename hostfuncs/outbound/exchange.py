"""Requests of one invocation: started, driven, waited for, and cleaned away."""

import asyncio
import time
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING

import httpcore2

from hostfuncs.outbound.authority import DEFAULT_PORTS, Authority, parse_authority
from hostfuncs.outbound.body import RequestBody, ResponseBody
from hostfuncs.outbound.connection import AddressDenied
from hostfuncs.outbound.errors import DeadlineExceeded, ErrorCode, OutboundError, Phase, Unanswered, code_of
from hostfuncs.outbound.fields import check_fields, check_received, check_target, content_length, is_method
from hostfuncs.outbound.passage import Passage
from hostfuncs.outbound.policy import DEFAULT_RULE, Denied, Policy, Rule
from hostfuncs.outbound.shapes import Fields, Options, OutboundLimits, Request, ResponseHead, UsageRecord

if TYPE_CHECKING:
    from hostfuncs.outbound.sender import Outbound

_CHECK_EVERY_S = 0.05
_PAUSE_S = 0.001
"""A pause of the loop longer than this is taken off the clocks of what was waited for."""

# RFC 9110 section 9.2.2: what may be repeated without asking.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# RFC 9110 section 8.6: methods whose requests say "no content" explicitly.
_CONTENT_METHODS = frozenset({"POST", "PUT", "PATCH"})


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

    def start(self, request: Request, options: Options | None = None, body: RequestBody | None = None) -> "Exchange":
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
        rule = ""
        try:
            scheme = request.scheme.lower()
            if not is_method(request.method):
                raise OutboundError(ErrorCode("HTTP-request-method-invalid"))
            if scheme not in DEFAULT_PORTS:
                raise _Refused(ErrorCode("HTTP-protocol-error"), "scheme")
            try:
                authority = parse_authority(request.authority, scheme)
            except ValueError:
                raise _Refused(ErrorCode("HTTP-request-URI-invalid"), "host") from None
            admitted = self._policy.admit(scheme, authority)
            rule = DEFAULT_RULE if admitted is None else admitted.text
            if request.method == "CONNECT":
                # A tunnel is a socket: nothing that passed through it could be checked.
                raise Denied("method", rule)
            if self._started >= self._limits.requests:
                raise Denied("limit", rule)
            target = check_target(request.path_with_query, self._limits.uri_bytes)
            try:
                check_fields(
                    request.headers, limit_bytes=self._limits.header_bytes, limit_count=self._limits.header_count
                )
            except OutboundError as exc:
                if exc.code.name.endswith("-size"):
                    raise _Refused(exc.code, "limit") from None
                raise
            announced = content_length(request.headers)
            if body is None and announced:
                raise OutboundError(ErrorCode("HTTP-request-body-size", 0))
            if announced is not None and announced > self._limits.body_bytes:
                raise _Refused(ErrorCode("HTTP-request-body-size", announced), "limit")
            if body is not None and announced is not None and body.expected is None:
                body.expected = announced
            if authority.address is not None:
                self._policy.check_address(admitted, scheme, authority.port, authority.address)
        except Denied as exc:
            self._refused(exc.rule, exc.code.name, began, exc.reason)
            raise OutboundError(exc.code) from None
        except _Refused as exc:
            self._refused(rule, exc.code.name, began, exc.reason)
            raise OutboundError(exc.code) from None
        except OutboundError as exc:
            self._refused(rule, exc.code.name, began, "")
            raise
        self._started += 1
        plan = Plan(request.method, scheme, authority, target, request.headers, admitted, rule)
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
        if self._live:
            tasks = []
            for exchange in list(self._live):
                tasks.append(exchange.task)
                exchange.close()
            loop = self.loop
            pending = [task for task in tasks if not task.done()]
            if pending:
                loop.run_until_complete(asyncio.wait(pending, timeout=1.0))
            if any(not task.done() for task in pending):
                self._outbound.reset()
            else:
                # Closed transports give their descriptors back in the loop's next pass.
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

    def ended(self, exchange: "Exchange", outcome: str, denied: str = "") -> None:
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


class _Refused(Exception):  # noqa: N818 - a decision, not a malfunction
    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Plan:
    """A request that passed every check that needs no network."""

    __slots__ = ("admitted", "authority", "headers", "method", "rule", "scheme", "target")

    def __init__(
        self,
        method: str,
        scheme: str,
        authority: Authority,
        target: bytes,
        headers: Fields,
        admitted: Rule | None,
        rule: str,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.target = target
        self.headers = headers
        self.admitted = admitted
        self.rule = rule


class Exchange:
    """One request and its response. Made by `Exchanges.start`."""

    def __init__(self, owner: Exchanges, plan: Plan, options: Options, body: RequestBody | None, began_ns: int) -> None:
        self._owner = owner
        self.plan = plan
        self.began_ns = began_ns
        self._request_body = body
        self._head: ResponseHead | None = None
        self._error: ErrorCode | None = None
        self._denied = ""
        self._phase = Phase.WAITING
        self._told: OutboundError | None = None
        self._closed = False
        self.body = ResponseBody(owner.loop, owner.limits, owner.notify)
        """The response's body; bytes appear once `done()`."""
        settings = owner.outbound.settings
        connect_s = _shorter(options.connect_timeout_ns, settings.connect_timeout_ms)
        self._seconds = {
            Phase.RESOLVING: connect_s,
            Phase.HEAD: _shorter(options.first_byte_timeout_ns, settings.first_byte_timeout_ms),
            Phase.BODY: _shorter(options.between_bytes_timeout_ns, settings.between_bytes_timeout_ms),
        }
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False
        self._begun = False
        self.task: asyncio.Task[None] = owner.loop.create_task(self._run())

    def __repr__(self) -> str:
        state = "failed" if self._error else "answered" if self._head else self._phase.value
        return f"<Exchange {self.plan.method} under rule {self.plan.rule!r}: {state}>"

    def done(self) -> bool:
        """Whether the response's head has arrived, or the exchange failed before."""
        return self._head is not None or self._error is not None

    def result(self) -> ResponseHead:
        """Return the response's head.

        Raises:
            OutboundError: the exchange failed before the head was complete.
            RuntimeError: not `done()`.
        """
        if self._head is not None:
            return self._head
        if self._error is not None:
            raise OutboundError(self._error)
        raise RuntimeError("the exchange is not done")

    def close(self) -> None:
        """The guest dropped it: cancel what is still running. More than once is fine."""
        if self._closed:
            return
        self._closed = True
        if not self.task.done():
            self.task.cancel()
            if not self._begun:
                # A task that is cancelled before its first step never gets to its clean-up.
                self._drop()
                self._owner.ended(self, "dropped")
        if self._request_body is not None:
            self._request_body.close()

    def shift(self, seconds: float) -> None:
        """Move the running timeout, because the loop stood still."""
        if self._timer is not None:
            self._arm(self._timer.when() + seconds)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        seconds = self._seconds.get(phase)
        # Resolving, TCP and TLS share one timeout, so CONNECTING leaves the clock as it is.
        if seconds is not None:
            self._arm(self._owner.loop.time() + seconds)

    def _arm(self, when: float) -> None:
        self._pause()
        self._timer = self._owner.loop.call_at(when, self._expire)

    def _pause(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._expired = True
        self.task.cancel()

    def _fail_from_body(self, error: OutboundError) -> None:
        self._told = error
        self.task.cancel()

    async def _run(self) -> None:
        self._begun = True
        outcome = "dropped"
        try:
            async with self._owner.slots:
                await self._exchange()
            outcome = "ok"
        except asyncio.CancelledError:
            if self._told is not None and not self._closed:
                outcome = self._fail(self._told)
            elif self._expired and not self._closed:
                outcome = self._fail(TimeoutError())
        except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - the one boundary: every failure gets its code
            outcome = self._fail(exc)
        finally:
            self._pause()
            if self._request_body is not None:
                self._request_body.close()
            if outcome == "dropped":
                self._drop()
            self._owner.ended(self, outcome, self._denied)

    def _drop(self) -> None:
        self.body.discard()
        self._error = self._error or ErrorCode("connection-terminated")
        self.body.fail(self._error)

    def _fail(self, exc: BaseException) -> str:
        if isinstance(exc, AddressDenied):
            self._denied = exc.denied.reason
        code = code_of(exc, self._phase)
        if self._head is None:
            self._error = code
        self.body.fail(code)
        return code.name

    async def _exchange(self) -> None:
        pool = self._owner.pool
        for attempt in (1, 2):
            passage = Passage(
                policy=self._owner.policy,
                rule=self.plan.admitted,
                enter=self._enter,
                fail=self._fail_from_body,
                body=self._request_body,
                expects_continue=self._request_body is not None
                and any(n.lower() == b"expect" and v.lower() == b"100-continue" for n, v in self.plan.headers),
            )
            try:
                response = await pool.handle_async_request(self._wire_request(passage))
            except (Unanswered, ConnectionError, httpcore2.RemoteProtocolError):
                # A kept connection the origin had given up: nothing of a response came, so a request that may be
                # repeated is, on a connection that is new or proves itself again.
                if attempt == 2 or not passage.reused or not self._repeatable():
                    raise
                continue
            break
        try:
            self._take_head(response)
            await self._take_body(response)
            limits = self._owner.limits
            check_received(
                passage.trailers,
                limit_bytes=limits.header_bytes,
                limit_count=limits.header_count,
                trailers=True,
            )
        finally:
            await response.aclose()
        self.body.end(passage.trailers)

    def _proxy_timeouts(self) -> dict[str, float]:
        """For httpcore2's own connections, which serve requests that go through a proxy."""
        if self._owner.outbound.settings.proxy is None:
            return {}
        connect, head, body = (self._seconds[phase] for phase in (Phase.RESOLVING, Phase.HEAD, Phase.BODY))
        return {"connect": connect, "read": max(head, body), "write": head}

    def _repeatable(self) -> bool:
        body = self._request_body
        return self.plan.method in _IDEMPOTENT and (body is None or not body.taken)

    def _take_head(self, response: httpcore2.Response) -> None:
        headers = tuple((bytes(name), bytes(value)) for name, value in response.headers)
        limits = self._owner.limits
        check_received(headers, limit_bytes=limits.header_bytes, limit_count=limits.header_count)
        self._head = ResponseHead(status=response.status, headers=headers)
        self._owner.notify()

    async def _take_body(self, response: httpcore2.Response) -> None:
        self._enter(Phase.BODY)
        assert isinstance(response.stream, AsyncIterable)
        async for chunk in response.stream:
            self.body.feed(chunk)
            if self.body.full():
                self._pause()
                await self.body.room()
            self._enter(Phase.BODY)
        self._pause()

    def _wire_request(self, passage: Passage) -> httpcore2.Request:
        plan, body = self.plan, self._request_body
        headers = [(b"Host", plan.authority.header), *plan.headers]
        if content_length(plan.headers) is None:
            if body is None:
                if plan.method in _CONTENT_METHODS:
                    headers.append((b"Content-Length", b"0"))
            elif body.finished and not body.trailers and not body.taken:
                # All of it is here: the plain framing every origin understands.
                headers.append((b"Content-Length", b"%d" % body.written))
            else:
                headers.append((b"Transfer-Encoding", b"chunked"))
        return httpcore2.Request(
            method=plan.method.encode("ascii"),
            url=httpcore2.URL(
                scheme=plan.scheme.encode("ascii"),
                host=plan.authority.host.encode("ascii"),
                port=plan.authority.port,
                target=plan.target,
            ),
            headers=headers,
            content=b"" if body is None else body,
            extensions={"passage": passage, "timeout": self._proxy_timeouts()},
        )


def _shorter(guest_ns: int | None, server_ms: int) -> float:
    """The guest's timeout, in seconds, but never longer than the server's."""
    server_s = server_ms / 1000
    return server_s if guest_ns is None else min(guest_ns / 1e9, server_s)

"""One request and its response: a coroutine that sends, receives, times out, and retries once where that is safe."""

import asyncio
from typing import Protocol

from hostfuncs.account import CONNECTION_BYTES, LINE_BYTES, RECORD_BYTES, REQUEST_BYTES, Account
from hostfuncs.ending import GuestEnded
from hostfuncs.outbound.admission import Plan
from hostfuncs.outbound.attempt import Attempt, Occupied, Reply
from hostfuncs.outbound.body import RequestBody, ResponseBody
from hostfuncs.outbound.connector import AddressDenied, Client
from hostfuncs.outbound.errors import ErrorCode, OutboundError, Phase, Unanswered, code_of
from hostfuncs.outbound.fields import check_received
from hostfuncs.outbound.inline_task import InlineTask
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.pool import Pool
from hostfuncs.outbound.values import Fields, Options, OutboundLimits, ResponseHead

# RFC 9110 section 9.2.2: methods whose requests may be repeated.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# RFC 9110 section 8.6: methods whose requests have Content-Length: 0 if they have no content.
_CONTENT_METHODS = frozenset({"POST", "PUT", "PATCH"})
# RFC 9110 sections 9.3.1 and 9.3.2: methods whose requests have no content, normally.
_BODILESS_METHODS = frozenset({"GET", "HEAD"})

_PIECES = 64
_NEVER = float("inf")


class Owner(Protocol):
    """The invocation of an exchange, `hostfuncs.outbound.exchanges.Exchanges`, as the exchange uses it."""

    limits: OutboundLimits
    policy: Policy
    account: Account

    @property
    def outbound(self) -> Client:
        """The HTTP client of the worker."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        ...

    @property
    def pool(self) -> Pool:
        """The connections that the invocation may use."""
        ...

    def due(self, seconds: float) -> float:
        """Return the instant at which the event loop will have run for so many seconds, waiting included."""
        ...

    def notify(self) -> None:
        """Check the guest's predicate again, because something has changed."""
        ...

    def ended(self, exchange: "Exchange", outcome: str, denied: str = "") -> None:
        """Record the end of an exchange."""
        ...

    def break_off(self, reason: BaseException) -> None:
        """Raise an exception, which ends the guest, in the call in which it waits."""
        ...


class Exchange:
    """One request and its response. `Exchanges.start` makes it."""

    def __init__(self, owner: Owner, plan: Plan, options: Options, body: RequestBody | None, began_ns: int) -> None:
        self._account = owner.account
        self._cost = REQUEST_BYTES + plan.weight
        self._account.take(self._cost + RECORD_BYTES)
        self._owner = owner
        self.plan = plan
        self.began_ns = began_ns
        self._request_body = body
        self._head: ResponseHead | None = None
        self._error: ErrorCode | None = None
        self.denied = ""
        """The reason, as in usage records, if the policy refused it after it began; otherwise empty."""
        self._phase = Phase.WAITING
        self._body_error: OutboundError | None = None
        self.closed = False
        """Whether the guest has dropped this exchange."""
        self._limits = owner.limits
        self.body = ResponseBody(owner.loop, owner.limits, owner.account, owner.notify)
        """The response's body. Its bytes arrive once `done()` is true."""
        self._options = options
        self.due = _NEVER
        """The instant of its present timeout, on the clock of `Exchanges.due`."""
        self.begun = False
        """Whether its coroutine was started."""
        self._expired = False
        self._cancelled = False
        self._finishing = False
        self._task: InlineTask | asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "failed" if self._error else "answered" if self._head else self._phase.value
        return f"<Exchange {self.plan.method} under rule {self.plan.rule!r}: {state}>"

    def done(self) -> bool:
        """Return whether the response's head has arrived, or the exchange failed before."""
        return self._head is not None or self._error is not None

    def result(self) -> ResponseHead:
        """Return the response's head.

        Raises:
            OutboundError: the exchange failed before the head was complete. DNS-timeout, DNS-error,
                destination-IP-prohibited, destination-IP-unroutable, destination-unavailable, connection-refused,
                connection-timeout, connection-terminated, connection-limit-reached, connection-read-timeout, one of
                TLS, HTTP-response-header-section-size, HTTP-response-transfer-coding, HTTP-response-incomplete,
                HTTP-upgrade-failed, HTTP-protocol-error, or a code of the body (see `RequestBody`). `errors.code_of`
                decides.
            RuntimeError: it is not `done()`.
        """
        if self._head is not None:
            return self._head
        if self._error is not None:
            raise OutboundError(self._error)
        raise RuntimeError("the exchange is not done")

    def close(self) -> None:
        """Cancel it, because the guest dropped it. It may be called more than once."""
        if self.closed:
            return
        self.closed = True
        if self._task is None:
            # It never began, so it has no clean-up of its own.
            self._drop()
            self._owner.ended(self, "dropped")
        else:
            self._cancel()
        self.body.discard()
        self._account.held -= self._cost
        self._cost = 0
        if self._request_body is not None:
            self._request_body.close()

    def over(self) -> bool:
        """Return whether it has ended and holds nothing any more."""
        return self.closed if self._task is None else self._task.done()

    # for Exchanges

    def sending(self) -> bool:
        """Return whether bytes of its body wait to be sent."""
        return self._request_body is not None and self._request_body.held > 0

    def begin(self) -> None:
        """Start it."""
        self.begun = True
        if self._owner.outbound.in_place:
            task = self._task = InlineTask(self._owner.loop, self._run())
            task.begin()
        else:
            self._begin_task()

    def _begin_task(self) -> None:
        task = self._task = self._owner.outbound.spawn(self._run())
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step never runs, and neither does its clean-up.
        if task.cancelled():
            if self._expired and not self.closed:
                outcome = self._fail(TimeoutError())
            else:
                outcome = "dropped"
                self._drop()
            self._ended(outcome)

    def expire(self) -> None:
        """End a wait that took too long."""
        self.due = _NEVER
        self._expired = True
        self._cancel()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        # Resolving, TCP and TLS share one timeout, so CONNECTING does not begin another.
        if phase is not Phase.CONNECTING:
            self.due = self._owner.due(self._seconds(phase))

    def _seconds(self, phase: Phase) -> float:
        settings, options = self._owner.outbound.settings, self._options
        if phase is Phase.RESOLVING:
            guest_ns, server_ms = options.connect_timeout_ns, settings.connect_timeout_ms
        elif phase is Phase.HEAD:
            guest_ns, server_ms = options.first_byte_timeout_ns, settings.first_byte_timeout_ms
        else:
            guest_ns, server_ms = options.between_bytes_timeout_ns, settings.between_bytes_timeout_ms
        # The guest's timeout, but at most the server's.
        return server_ms / 1000 if guest_ns is None else min(guest_ns / 1e9, server_ms / 1000)

    def _pause(self) -> None:
        self.due = _NEVER

    def _fail_from_body(self, error: OutboundError) -> None:
        self._body_error = error
        self._cancel()

    def _cancel(self) -> None:
        """Cancel the task once, but not during its clean-up, which is short and must not be interrupted."""
        if not self._cancelled and not self._finishing:
            self._cancelled = True
            if self._task is not None:
                self._task.cancel()

    async def _run(self) -> None:
        outcome = "dropped"
        try:
            await self._exchange()
            outcome = "ok"
        except asyncio.CancelledError:
            if self._body_error is not None and not self.closed:
                outcome = self._fail(self._body_error)
            elif self._expired and not self.closed:
                outcome = self._fail(TimeoutError())
        except GuestEnded as reason:
            self._owner.break_off(reason)
        except (Exception, BaseExceptionGroup) as exc:  # noqa: BLE001 - the boundary: every failure gets an error code
            outcome = self._fail(exc)
        finally:
            if outcome == "dropped":
                self._drop()
            self._ended(outcome)

    def _ended(self, outcome: str) -> None:
        self._pause()
        if self._request_body is not None:
            self._request_body.close()
        self._owner.ended(self, outcome, self.denied)

    def _drop(self) -> None:
        self.body.discard()
        self._error = self._error or ErrorCode("connection-terminated")
        self.body.fail(self._error)

    def _fail(self, exc: BaseException) -> str:
        if isinstance(exc, AddressDenied):
            self.denied = exc.denied.reason
        code = code_of(exc, self._phase)
        if self._head is None:
            self._error = code
        self.body.fail(code)
        return code.name

    async def _exchange(self) -> None:
        pool, plan = self._owner.pool, self.plan
        body = self._request_body
        if body is not None and body.unused and plan.method in _BODILESS_METHODS and plan.announced is None:
            # Guests open a body as a matter of routine. Such a request has none, as in Go and in wasmtime.
            body.close()
            self._request_body = None
        may_repeat = plan.method in _IDEMPOTENT
        while True:
            attempt = Attempt(
                plan=plan,
                account=self._account,
                policy=self._owner.policy,
                headers=self._wire_headers(),
                enter=self._enter,
                fail=self._fail_from_body,
                body=self._request_body,
            )
            connection = await pool.take(plan.origin)
            buffers = 0
            try:
                self._account.take(CONNECTION_BYTES)
                buffers = CONNECTION_BYTES
                reply = await connection.request(attempt)
                try:
                    await self._receive(reply, attempt)
                finally:
                    self.due = _NEVER
                    self._finishing = True
                    await reply.release()
            except Occupied:
                continue
            except Exception as exc:
                # The origin had closed a kept connection, and no part of a response came. If the request may be
                # repeated, it is sent once more, on a new connection or another kept one.
                lost = attempt.lost or isinstance(exc, (Unanswered, ConnectionError))
                if not lost or not may_repeat or not attempt.reused or self._head is not None or self._body_taken():
                    raise
                may_repeat = False
                continue
            finally:
                self._account.held -= buffers
                pool.put(connection)
            break
        self.body.end(attempt.trailers)

    def _body_taken(self) -> bool:
        return self._request_body is not None and self._request_body.taken

    async def _receive(self, reply: Reply, attempt: Attempt) -> None:
        headers = reply.headers
        self._keep(headers)
        self._head = ResponseHead(status=reply.status, headers=headers)
        self._owner.notify()
        body, pieces, seconds = self.body, 0, self._seconds(Phase.BODY)
        self._phase = Phase.BODY
        self.due = self._owner.due(seconds)
        while (chunk := await reply.next_data()) is not None:
            body.feed(chunk)
            pieces += 1
            if pieces % _PIECES == 0:
                # An origin that sends tiny chunks must not keep the event loop from its timers.
                await asyncio.sleep(0)
            if body.full():
                self._pause()
                await body.room()
            self.due = self._owner.due(seconds)
        self._pause()
        if attempt.trailers:
            self._keep(attempt.trailers, trailers=True)

    def _keep(self, fields: Fields, *, trailers: bool = False) -> None:
        """Check the lines that the origin sent, and count them. They are held until the guest drops the exchange."""
        limits = self._limits
        size = check_received(
            fields, limit_bytes=limits.header_bytes, limit_count=limits.header_count, trailers=trailers
        )
        cost = size + len(fields) * LINE_BYTES
        self._account.take(cost)
        self._cost += cost

    def _wire_headers(self) -> list[tuple[bytes, bytes]]:
        plan, body = self.plan, self._request_body
        headers = [(b"Host", plan.authority.header), *plan.headers]
        if plan.announced is None:
            if body is None:
                if plan.method in _CONTENT_METHODS:
                    headers.append((b"Content-Length", b"0"))
            elif body.complete and not body.trailers and not body.taken:
                # All of it is here, so it gets the framing that every origin understands.
                headers.append((b"Content-Length", b"%d" % body.written))
            else:
                headers.append((b"Transfer-Encoding", b"chunked"))
        return headers

"""One request and its response: steps that send, receive, time out, and repeat once where that is safe."""

import asyncio
from typing import TYPE_CHECKING

from hostfuncs.outbound.admission import Plan
from hostfuncs.outbound.body import RequestBody, ResponseBody
from hostfuncs.outbound.errors import ErrorCode, OutboundError, Phase, Unanswered, code_of
from hostfuncs.outbound.fields import check_received
from hostfuncs.outbound.opening import AddressDenied
from hostfuncs.outbound.passage import Occupied, Passage, Reply
from hostfuncs.outbound.shapes import Options, ResponseHead
from hostfuncs.outbound.steps import Steps

if TYPE_CHECKING:
    from hostfuncs.outbound.exchanges import Exchanges

# RFC 9110 section 9.2.2: what may be repeated without asking.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# RFC 9110 section 8.6: methods whose requests say "no content" explicitly.
_CONTENT_METHODS = frozenset({"POST", "PUT", "PATCH"})

_PIECES = 64
_NEVER = float("inf")


class Exchange:
    """One request and its response. Made by `Exchanges.start`."""

    def __init__(
        self, owner: "Exchanges", plan: Plan, options: Options, body: RequestBody | None, began_ns: int
    ) -> None:
        self._owner = owner
        self.plan = plan
        self.began_ns = began_ns
        self._request_body = body
        self._head: ResponseHead | None = None
        self._error: ErrorCode | None = None
        self._denied = ""
        self._phase = Phase.WAITING
        self._told: OutboundError | None = None
        self.closed = False
        """Whether the guest has dropped it."""
        self._limits = owner.limits
        self.body = ResponseBody(owner.loop, owner.limits, owner.notify)
        """The response's body; bytes appear once `done()`."""
        self._options = options
        self.due = _NEVER
        """When it has been waited for long enough, on the clock of `Exchanges.due`."""
        self.begun = False
        """Whether its steps have begun."""
        self._expired = False
        self._cancelled = False
        self._finishing = False
        self._steps: Steps | asyncio.Task[None] | None = None

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
        if self.closed:
            return
        self.closed = True
        if self._steps is None:
            # It never began, so there is no clean-up of its own.
            self._drop()
            self._owner.ended(self, "dropped")
        else:
            self._cancel()
        if self._request_body is not None:
            self._request_body.close()

    def over(self) -> bool:
        """Whether it has ended, one way or the other, and holds nothing any more."""
        return self.closed if self._steps is None else self._steps.done()

    # for Exchanges

    def begin(self) -> None:
        """Set it going."""
        self.begun = True
        if self._owner.outbound.in_place:
            steps = self._steps = Steps(self._owner.loop, self._run())
            steps.begin()
        else:
            self._steps = self._owner.outbound.spawn(self._run())

    def expire(self) -> None:
        """What it waits for took too long."""
        self.due = _NEVER
        self._expired = True
        self._cancel()

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        # Resolving, TCP and TLS share one timeout, so CONNECTING leaves the clock as it is.
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
        # The guest's, but never longer than the server's.
        return server_ms / 1000 if guest_ns is None else min(guest_ns / 1e9, server_ms / 1000)

    def _pause(self) -> None:
        self.due = _NEVER

    def _fail_from_body(self, error: OutboundError) -> None:
        self._told = error
        self._cancel()

    def _cancel(self) -> None:
        """Cancel the task, once, and not in its clean-up: that waits for no network, and must not be cut short."""
        if not self._cancelled and not self._finishing:
            self._cancelled = True
            if self._steps is not None:
                self._steps.cancel()

    async def _run(self) -> None:
        outcome = "dropped"
        try:
            await self._exchange()
            outcome = "ok"
        except asyncio.CancelledError:
            if self._told is not None and not self.closed:
                outcome = self._fail(self._told)
            elif self._expired and not self.closed:
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
        pool, plan = self._owner.pool, self.plan
        may_repeat = plan.method in _IDEMPOTENT
        while True:
            passage = Passage(
                plan=plan,
                policy=self._owner.policy,
                headers=self._wire_headers(),
                enter=self._enter,
                fail=self._fail_from_body,
                body=self._request_body,
                timeouts=None if self._owner.outbound.in_place else self._proxy_timeouts(),
            )
            connection = await pool.take(plan.origin)
            try:
                reply = await connection.request(passage)
                try:
                    await self._receive(reply, passage)
                finally:
                    self.due = _NEVER
                    self._finishing = True
                    await reply.release()
            except Occupied:
                continue
            except Exception as exc:
                # A kept connection the origin had given up: nothing of a response came, so a request that may be
                # repeated is, once, on a connection that is new or proves itself again.
                lost = passage.lost or isinstance(exc, (Unanswered, ConnectionError))
                if not lost or not may_repeat or not passage.reused or self._head is not None or self._body_taken():
                    raise
                may_repeat = False
                continue
            finally:
                pool.put(connection)
            break
        self.body.end(passage.trailers)

    def _proxy_timeouts(self) -> dict[str, float]:
        connect, head, body = (self._seconds(phase) for phase in (Phase.RESOLVING, Phase.HEAD, Phase.BODY))
        return {"connect": connect, "read": max(head, body), "write": head}

    def _body_taken(self) -> bool:
        return self._request_body is not None and self._request_body.taken

    async def _receive(self, reply: Reply, passage: Passage) -> None:
        limits = self._limits
        headers = reply.headers
        check_received(headers, limit_bytes=limits.header_bytes, limit_count=limits.header_count)
        self._head = ResponseHead(status=reply.status, headers=headers)
        self._owner.notify()
        body, pieces, seconds = self.body, 0, self._seconds(Phase.BODY)
        self._phase = Phase.BODY
        self.due = self._owner.due(seconds)
        while (chunk := await reply.next_data()) is not None:
            body.feed(chunk)
            pieces += 1
            if pieces % _PIECES == 0:
                # An origin that sends tiny chunks must not keep the loop from its timers.
                await asyncio.sleep(0)
            if body.full():
                self._pause()
                await body.room()
            self.due = self._owner.due(seconds)
        self._pause()
        if passage.trailers:
            check_received(
                passage.trailers, limit_bytes=limits.header_bytes, limit_count=limits.header_count, trailers=True
            )

    def _wire_headers(self) -> list[tuple[bytes, bytes]]:
        plan, body = self.plan, self._request_body
        headers = [(b"Host", plan.authority.header), *plan.headers]
        if plan.announced is None:
            if body is None:
                if plan.method in _CONTENT_METHODS:
                    headers.append((b"Content-Length", b"0"))
            elif body.finished and not body.trailers and not body.taken:
                # All of it is here: the plain framing every origin understands.
                headers.append((b"Content-Length", b"%d" % body.written))
            else:
                headers.append((b"Transfer-Encoding", b"chunked"))
        return headers

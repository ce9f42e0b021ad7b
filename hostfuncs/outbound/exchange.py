"""One request and its response: a task that sends, receives, times out, and repeats once where that is safe."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

import httpcore2

from hostfuncs.outbound.admission import Plan
from hostfuncs.outbound.authority import DEFAULT_PORTS
from hostfuncs.outbound.body import RequestBody, ResponseBody
from hostfuncs.outbound.connection import AddressDenied
from hostfuncs.outbound.errors import ErrorCode, OutboundError, Phase, Unanswered, code_of
from hostfuncs.outbound.fields import check_received
from hostfuncs.outbound.passage import Passage
from hostfuncs.outbound.shapes import Options, ResponseHead

if TYPE_CHECKING:
    from hostfuncs.outbound.exchanges import Exchanges

# RFC 9110 section 9.2.2: what may be repeated without asking.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# RFC 9110 section 8.6: methods whose requests say "no content" explicitly.
_CONTENT_METHODS = frozenset({"POST", "PUT", "PATCH"})

_PIECES = 64


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
        self._cancelled = False
        self._finishing = False
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
            self._cancel()
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
        self._cancel()

    def _fail_from_body(self, error: OutboundError) -> None:
        self._told = error
        self._cancel()

    def _cancel(self) -> None:
        """Cancel the task, once, and not in its clean-up: that waits for no network, and must not be cut short."""
        if not self._cancelled and not self._finishing:
            self._cancelled = True
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
            self._pause()
            self._finishing = True
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
        # Closed here and not by the collector, which would leave that to the loop's next run.
        async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(response.stream))) as chunks:
            pieces = 0
            async for chunk in chunks:
                self.body.feed(chunk)
                pieces += 1
                if pieces % _PIECES == 0:
                    # An origin that sends tiny chunks must not keep the loop from its timers.
                    await asyncio.sleep(0)
                if self.body.full():
                    self._pause()
                    await self.body.room()
                self._enter(Phase.BODY)
        self._pause()

    def _wire_request(self, passage: Passage) -> httpcore2.Request:
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
        return httpcore2.Request(
            method=plan.method.encode("ascii"),
            url=httpcore2.URL(
                scheme=plan.scheme.encode("ascii"),
                host=plan.authority.host.encode("ascii"),
                port=None if plan.authority.port == DEFAULT_PORTS[plan.scheme] else plan.authority.port,
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

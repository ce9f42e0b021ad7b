"""`POST` and `PUT /v1.0/bindings/{name}/raw`: any body is a program's stdin, and what it writes is the answer.

For callers that are not Dapr's: nothing is JSON, and statuses are those of a gateway. A program's input and output are
whole, as its pool takes and gives them, within listen.maxBodySize and stdoutLimit. A guest that handles HTTP is called
with the request itself, and its body and response stream (`sandboxd.front.http.guest_http`).
"""

import asyncio
import logging
import time
from functools import partial
from typing import Final

from sandboxd.front.answering import failures
from sandboxd.front.answering.attempt import attempt
from sandboxd.front.answering.deciding import OPERATION, addressed, decide
from sandboxd.front.answering.failures import CallerGone, Failure
from sandboxd.front.answering.load_shedding import Gate
from sandboxd.front.answering.outcomes import TABLE
from sandboxd.front.answering.runlog import keep_failure, log_run
from sandboxd.front.answering.tracing import new_span
from sandboxd.front.http.bodies import BODY_TIMEOUT, BodyLate, read_body
from sandboxd.front.http.failed import send_failure
from sandboxd.front.http.guest_http import HttpEndpoint
from sandboxd.front.http.routing import BINDINGS, HTTP, metadata_of, unescape_name
from sandboxd.front.ports import Bindings, FrontSettings, Invoker, Receive, Scope, Send, Served
from sandboxd.front.servers.disconnects import GONE, Disconnects
from sandboxd.limits.keys import BODY_KEY, named
from sandboxd.limits.units import Unit
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import Rejected
from sandboxd.wire.messages import Call, Result

log = logging.getLogger("sandboxd.request")

SUFFIX: Final = b"/raw"
_OWN_STATUSES: Final = frozenset((408, 413))
"""Statuses that a failure has for itself; the others are Dapr's, and a gateway's stand in their place."""


def raw_name(path: bytes) -> bytes | None:
    """Return the name, still escaped, in `/v1.0/bindings/{name}/raw`; None for any other path.

    Parameters:
        path: from `routing.clean`.
    """
    if not (path.startswith(BINDINGS) and path.endswith(SUFFIX)):
        return None
    segment = path[len(BINDINGS) : -len(SUFFIX)]
    return segment if segment and b"/" not in segment else None


class RawEndpoint:
    """Answers raw requests.

    Parameters:
        settings: the limits of requests.
        invoker: runs guests.
        metrics: counts requests.
        gate: refuses requests for bindings that have no room.
        http: answers for guests that handle HTTP.
    """

    def __init__(
        self, settings: FrontSettings, invoker: Invoker, metrics: Metrics, gate: Gate, http: HttpEndpoint
    ) -> None:
        self._max_body = settings.max_body_bytes
        self._pace = settings.pace
        self._invoker = invoker
        self._metrics = metrics
        self._gate = gate
        self._http = http
        self._disconnects = Disconnects()

    def __repr__(self) -> str:
        return "<RawEndpoint>"

    async def __call__(self, bindings: Bindings, segment: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Parameters:
            bindings: those that are served.
            segment: the name in the path, still escaped.
        """
        name = unescape_name(segment)
        served = bindings.by_name.get(name)
        if served is not None and not served.is_program:
            await self._http({**scope, "raw_path": HTTP + segment + b"/"}, receive, send)
            return
        began = time.monotonic_ns()
        metrics = served.metrics if served is not None else self._metrics.binding("")
        span = new_span(next((value for key, value in scope["headers"] if key == b"traceparent"), None))
        try:
            served = addressed(served, name, OPERATION, loading=bindings.loading)
            result = await self._run(served, span, scope, receive, began)
        except Failure as failed:
            if failed.status not in _OWN_STATUSES:
                failed.status = TABLE[failed.outcome].http
            metrics.ended(failed.outcome, (time.monotonic_ns() - began) * 1e-9)
            keep_failure(metrics, failed, span, began)
            await send_failure(failed, served, span, began, scope, send)
        except (CallerGone, asyncio.CancelledError) as ended:
            metrics.ended(Outcome.CANCELLED, (time.monotonic_ns() - began) * 1e-9)
            if isinstance(ended, asyncio.CancelledError):
                raise
        else:
            metrics.ended(Outcome.COMPLETED, (time.monotonic_ns() - began) * 1e-9)
            if log.isEnabledFor(logging.DEBUG):
                log_run(logging.DEBUG, served, result, span, began)
            length = (b"content-length", b"%d" % len(result.stdout))
            headers = [*served.success_headers, length, (b"traceparent", span.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": result.stdout})

    async def _run(self, served: Served, span: str, scope: Scope, receive: Receive, began: int) -> Result:
        name = served.binding.name
        if self._gate.shut(name):
            try:
                await self._gate.enter(name)
            except Rejected as rejected:
                raise failures.of_refusal(rejected, name, counted=True) from None
        deadline = began + served.timeout_ns
        body = await self._body(served, scope, receive, deadline)
        call = decide(served, name, OPERATION, metadata_of(scope["query_string"]), body, span.encode(), deadline)
        presence = self._disconnects.enter(receive, (scope.get("extensions") or {}).get(GONE))
        once = partial(self._once, served, span, began)
        try:
            return await (once(call, False) if served.guard is None else served.guard.run(call, once))
        except asyncio.CancelledError:
            if not presence.gone:
                raise
            presence.task.uncancel()
            raise CallerGone from None
        finally:
            self._disconnects.leave(presence)

    async def _once(self, served: Served, span: str, began: int, call: Call, by_policy: bool) -> Result:
        return await attempt(self._invoker, served, call, span, began, by_policy=by_policy)

    async def _body(self, served: Served, scope: Scope, receive: Receive, deadline: int) -> bytes:
        """Return the request's body.

        Raises:
            Failure: it is too long, or did not come in time.
        """
        lengths = [value for key, value in scope["headers"] if key == b"content-length"]
        # The HTTP server has refused lengths that are none.
        if not lengths or int(lengths[0]) <= self._max_body:
            try:
                body = await read_body(receive, self._pace, limit=self._max_body, deadline_ns=deadline)
            except BodyLate as late:
                if late.deadline:
                    text = f"the request's body did not come within {_timeout(served)}"
                    raise Failure(Outcome.DEADLINE_EXCEEDED, text, status=408) from None
                self._metrics.turned_away(BODY_TIMEOUT)
                raise Failure(Outcome.BAD_REQUEST, str(late), status=408) from None
            if len(body) <= self._max_body:
                return body
        served.metrics.limit_reached(BODY_KEY)
        text = f"the request's body is longer than {Unit.SIZE.show(self._max_body)} ({BODY_KEY})"
        raise Failure(Outcome.BAD_REQUEST, text, status=413)


def _timeout(served: Served) -> str:
    return named("timeout_ms", served.binding.limits.timeout_ms)

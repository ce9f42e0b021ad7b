"""`POST /v1.0/bindings/{name}` by ASGI: takes the steps of an `Exchange`, and waits for what they need."""

import asyncio
import logging
import time
from functools import partial
from typing import Final

from sandboxd import gojson
from sandboxd.front.answering import payload
from sandboxd.front.answering.attempt import attempt
from sandboxd.front.answering.deciding import unfit
from sandboxd.front.answering.failures import CallerGone, Failure
from sandboxd.front.answering.load_shedding import Gate
from sandboxd.front.decoding import BodyDecoder, DecoderBusyError, DecoderLostError
from sandboxd.front.http.bodies import BODY_TIMEOUT, HELD, WHOLE, BodyLate, Whole, read_body
from sandboxd.front.http.exchange import INLINE_BYTES, Exchange, TooLarge, malformed, trace_of
from sandboxd.front.ports import Bindings, FrontSettings, Invoker, Receive, Scope, Send, Served
from sandboxd.front.servers.disconnects import GONE, Disconnects, Tell
from sandboxd.limits.keys import BODY_KEY, named
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.pool.errors import Rejected
from sandboxd.wire.messages import Call, Result
from sandboxd.wire.streams import StdoutKind

log = logging.getLogger("sandboxd.request")

_UNNAMED_TIMEOUT_NS: Final = 30_000_000_000
"""The time to decode the body of a request for a binding that does not exist."""
BODIES_WAITING: Final = "bodies_waiting"
"""The reason by which the metrics count bodies that were not decoded because too many others wait."""


class BindingEndpoint:
    """Answers binding requests.

    Parameters:
        settings: the limits of requests.
        invoker: runs guests.
        metrics: counts requests.
    """

    def __init__(self, settings: FrontSettings, invoker: Invoker, metrics: Metrics) -> None:
        self.bindings = Bindings()
        """The bindings that are served. Assign a new snapshot to change them. Running requests keep the former one."""
        self._max_body = settings.max_body_bytes
        self._pace = settings.pace
        self._turned_away = metrics.turned_away
        self.inline_bytes = min(INLINE_BYTES, settings.max_body_bytes)
        """The longest body that is decoded in this process."""
        self._invoker = invoker
        self._invoke = invoker.invoke
        self.gate = Gate(invoker)
        """Refuses requests for bindings that have no room."""
        self._unnamed = metrics.binding("")
        self.counts_dapr = metrics.dapr is not None
        """Whether daprd's metrics are counted, too."""
        self._disconnects = Disconnects()
        self._decoder = BodyDecoder(settings.wall)

    def __repr__(self) -> str:
        return f"<BindingEndpoint of {len(self.bindings.by_name)} bindings>"

    async def __call__(self, served: Served | None, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Parameters:
            served: the binding; None if no binding has this name.
            name: the name in the request's path, unescaped.
        """
        metrics = served.metrics if served is not None else self._unnamed
        exchange = Exchange(
            served, name, metrics, trace_of(scope["headers"]), time.monotonic_ns(), dapr=self.counts_dapr
        )
        try:
            if served is not None and self.gate.shut(served.binding.name):
                await self._enter(served, exchange)
            extensions = scope.get("extensions") or {}
            whole: Whole | None = extensions.get(WHOLE)
            if whole is not None and whole():
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerGone
                body: bytes = message["body"]
            else:
                body = await self._read_body(receive, served, exchange.began_ns)
            if len(body) <= self.inline_bytes:
                exchange.decode(body)
            else:
                await self._decode_large(body, exchange)
            call = exchange.call(loading=self.bindings.loading)
            result = await self._execute(exchange, call, receive, extensions.get(GONE))
            exchange.completed(result)
        except Failure as failed:
            http1 = scope["http_version"].startswith("1")
            status, headers, error = exchange.failed(failed, http1=http1)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": error})
            return
        except (CallerGone, asyncio.CancelledError) as ended:
            exchange.left()
            if isinstance(ended, asyncio.CancelledError):
                raise
            return
        assert served is not None
        stdout, metadata = result.stdout, exchange.request.metadata
        if served.converts_stdout or (metadata and payload.STDOUT in metadata):
            stdout = await _reply(payload.stdout_kind(metadata, served.binding.stdout), stdout)
        headers = exchange.headers(result, len(stdout))
        await send({"type": "http.response.start", "status": 200, "headers": headers, HELD: len(stdout)})
        await send({"type": "http.response.body", "body": stdout})

    def close(self) -> None:
        """End the decoding processes."""
        self.gate.close()
        self._decoder.close()

    async def _enter(self, served: Served, exchange: Exchange) -> None:
        """Wait for admission while the binding has no room. This happens before the body is read, so that a refusal is
        cheap.

        Raises:
            Failure: the request is refused.
        """
        try:
            await self.gate.enter(served.binding.name)
        except Rejected as rejected:
            raise exchange.turned_away(rejected) from None

    async def _decode_large(self, body: bytes, exchange: Exchange) -> None:
        """Decode a body in another process, until the deadline of the request, and convert `data` to the binding's
        stdin kind.

        Raises:
            Failure: the body is not a valid request, or was not decoded in time.
        """
        served = exchange.served
        metrics = served.metrics if served is not None else self._unnamed
        cut = self._max_body if len(body) > self._max_body else None
        body = body[:cut]
        timeout_ns = _UNNAMED_TIMEOUT_NS if served is None else served.timeout_ns
        try:
            if len(body) <= INLINE_BYTES:
                exchange.decode(body, cut=cut)
                return
            kind = None if served is None else served.binding.stdin
            deadline_ns = exchange.began_ns + timeout_ns
            exchange.request = await self._decoder.decode(body, kind, cut=cut is not None, deadline_ns=deadline_ns)
        except (payload.DataError, payload.KindError) as error:
            raise unfit(error) from None
        except gojson.MalformedError as error:
            failed = malformed(error, cut)
            if isinstance(failed, TooLarge):
                metrics.limit_reached(BODY_KEY)
            raise failed from None
        except TooLarge:
            metrics.limit_reached(BODY_KEY)
            raise
        except TimeoutError:
            text = "the request's body could not be decoded in time"
            raise Failure(Outcome.DEADLINE_EXCEEDED, text) from None
        except DecoderBusyError:
            self._turned_away(BODIES_WAITING)
            text = "too many large request bodies wait to be decoded"
            raise Failure(Outcome.REJECTED, text, retry_after_s=1) from None
        except DecoderLostError as error:
            log.error("a request's body could not be decoded: %s", error)
            raise Failure(Outcome.HOST_FAILED, "the request's body could not be decoded") from None

    async def _read_body(self, receive: Receive, served: Served | None, began_ns: int) -> bytes:
        """Return the body. Of a body that is too long, return somewhat more than the limit.

        Raises:
            Failure: the body did not arrive in time.
        """
        deadline_ns = None if served is None else began_ns + served.timeout_ns
        try:
            return await read_body(receive, self._pace, limit=self._max_body, deadline_ns=deadline_ns)
        except BodyLate as late:
            if late.deadline:
                assert served is not None
                text = f"the request's body did not come within {named('timeout_ms', served.binding.limits.timeout_ms)}"
                raise Failure(Outcome.DEADLINE_EXCEEDED, text, status=408) from None
            self._turned_away(BODY_TIMEOUT)
            raise Failure(Outcome.BAD_REQUEST, str(late), status=408) from None

    async def _execute(self, exchange: Exchange, call: Call, receive: Receive, tell: Tell | None) -> Result:
        """Run the guest once, or as often as the binding's resiliency policy wants.

        Raises:
            Failure: the invocation failed.
            CallerGone: nobody waits for the answer any more.
        """
        served = exchange.served
        assert served is not None
        presence = self._disconnects.enter(receive, tell)
        try:
            if served.guard is not None:
                once = partial(self._once, served, exchange.span, exchange.began_ns)
                return await served.guard.run(call, once)
            exchange.begun()
            result = await self._invoke(served.binding.name, call)
        except Failure:
            raise
        except asyncio.CancelledError:
            if not presence.gone:
                raise
            presence.task.uncancel()
            raise CallerGone from None
        except Exception as error:  # noqa: BLE001 - logged there
            raise exchange.error(error) from None
        finally:
            self._disconnects.leave(presence)
        failed = exchange.ran(result)
        if failed is not None:
            raise failed
        return result

    async def _once(self, served: Served, span: str, began: int, call: Call, by_policy: bool) -> Result:
        return await attempt(self._invoker, served, call, span, began, by_policy=by_policy)


async def _reply(kind: StdoutKind, stdout: bytes) -> bytes:
    """Return the reply for a guest's stdout. A long conversion lets other requests run in between."""
    pieces = []
    for piece in payload.reply_pieces(kind, stdout):
        pieces.append(piece)
        if len(piece) > INLINE_BYTES:
            await asyncio.sleep(0)
    return b"".join(pieces)

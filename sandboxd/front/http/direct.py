"""`POST /v1.0/bindings/{name}` without ASGI: takes the steps of an `Exchange` within the calls that bring the
request, and later the result of its guest. Nothing here waits, so there is neither a task nor a future.

Only plain requests are answered here, which are nearly all: those where nothing has to be waited for but the guest, and
room for it. All others go to `binding`, which answers them alike.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Final

from sandboxd.front.answering import payload
from sandboxd.front.answering.failures import Failure
from sandboxd.front.answering.load_shedding import Turn
from sandboxd.front.answering.runlog import log_refusal
from sandboxd.front.http.auth import TOKEN_HEADER, TokenCheck
from sandboxd.front.http.binding import BindingEndpoint
from sandboxd.front.http.bodies import CLOSE
from sandboxd.front.http.exchange import Exchange
from sandboxd.front.http.replies import INTERNAL_ERROR, Laid, plain_error
from sandboxd.front.ports import Bindings, Headers, Invoked, Invoker, Served
from sandboxd.log import fields
from sandboxd.pool.errors import Rejected
from sandboxd.wire.messages import Result

log = logging.getLogger("sandboxd.request")

METHODS: Final = frozenset((b"POST", b"PUT"))


Plain = tuple[Served, bytes | None]
"""The head of a plain request: its binding, and its traceparent."""


class DirectEndpoint:
    """Answers plain binding requests.

    Parameters:
        endpoint: answers the others; its bindings are served.
        invoker: runs guests.
        tokens: checks the API token; None if no token is required.
    """

    def __init__(self, endpoint: BindingEndpoint, invoker: Invoker, tokens: TokenCheck | None) -> None:
        self._endpoint = endpoint
        self.has_room = invoker.has_room
        """Returns whether a request for the binding of this name may begin. Otherwise it has to `line_up` first."""
        self._begin = invoker.begin
        self._tokens = tokens

    def __repr__(self) -> str:
        return f"<DirectEndpoint beside {self._endpoint!r}>"

    def plain(self, method: bytes, target: bytes, fields: Iterable[tuple[bytes, bytes]]) -> Plain | None:
        """Return the head of a request if it is plain; None if the request is for the ASGI application.

        Parameters:
            method: of the request, which came over HTTP/1.1.
            target: as it stands in the request line.
            fields: those headers that decide how it is answered. Of these only Host, Content-Length, traceparent and
                the API token are plain.
        """
        served = self._endpoint.bindings.by_path.get(target)
        if served is None or served.guard is not None or served.converts_stdout or method not in METHODS:
            return None
        parent = token = None
        for name, value in fields:
            if name == b"content-length":
                if int(value) > self._endpoint.inline_bytes:
                    return None
            elif name == b"traceparent":
                parent = value
            elif name == TOKEN_HEADER:
                token = value if token is None else token
            elif name != b"host":
                return None
        if self._tokens is not None and not self._tokens.accepts(token or b""):
            return None
        return served, parent

    @property
    def bindings(self) -> Bindings:
        """The bindings that are served."""
        return self._endpoint.bindings

    def still_plain(self, bindings: Bindings) -> bool:
        """Return whether a request that was plain is so still.

        Parameters:
            bindings: those that were served then. An API token may have been changed meanwhile.
        """
        return self._tokens is None and self._endpoint.bindings is bindings

    @staticmethod
    def plain_in_any_case(body: bytes) -> bool:
        """Return whether `begin` will take a request with this body. Of those that it takes, return False for few."""
        return b"stdout" not in body and b"\\u" not in body  # a key can be written with escapes

    def line_up(self, plain: Plain, turn: Turn) -> None:
        """Have a request wait at the gate until it may begin, or is refused."""
        self._endpoint.gate.line_up(plain[0].binding.name, turn)

    def refuse(self, plain: Plain, began_ns: int, rejected: Rejected, reply: Callable[[Laid], None]) -> None:
        """Answer a request that was refused at the gate. Parameters as of `begin`.

        Parameters:
            rejected: what the gate said.
        """
        exchange = DirectExchange.of(plain, began_ns, reply, dapr=self._endpoint.counts_dapr)
        exchange.receive(exchange.turned_away(rejected))

    def begin(self, plain: Plain, body: bytes, began_ns: int, reply: Callable[[Laid], None]) -> "DirectExchange | None":
        """Begin to answer a request.

        Parameters:
            plain: its head.
            body: its whole body.
            began_ns: CLOCK_MONOTONIC instant at which it came.
            reply: takes the answer, once: before this returns, or later within a step of the pool.

        Returns:
            None if the request is not plain after all. Nothing has happened then.
        """
        name = plain[0].binding.name
        exchange = DirectExchange.of(plain, began_ns, reply, dapr=self._endpoint.counts_dapr)
        try:
            exchange.decode(body)
            metadata = exchange.request.metadata
            if metadata and payload.STDOUT in metadata:
                return None
            call = exchange.call()
            exchange.begun()
            exchange.invoked = self._begin(name, call, exchange.receive)
        except Exception as error:  # noqa: BLE001 - each of them has an answer; what is unexpected is logged
            exchange.receive(error)
        return exchange

    def left(self, plain: Plain, began_ns: int) -> None:
        """Count a request whose caller has gone before the end of its body."""
        DirectExchange.of(plain, began_ns, lambda _: None).left()


class DirectExchange(Exchange):
    """One plain request. `of` makes it."""

    __slots__ = ("_reply", "invoked")

    _reply: Callable[[Laid], None]
    invoked: Invoked | None
    """The invocation in the pool, while there is one."""

    @classmethod
    def of(cls, plain: Plain, began_ns: int, reply: Callable[[Laid], None], *, dapr: bool = False) -> "DirectExchange":
        """Return the exchange of a plain request. A constructor that calls that of `Exchange` would cost more.

        Parameters:
            plain: its head.
            began_ns, dapr: see `Exchange`.
            reply: takes the answer; raises if it cannot be sent, and nothing of it is.
        """
        served, parent = plain
        exchange = cls(served, served.binding.name, served.metrics, (parent, None, None), began_ns, dapr)
        exchange._reply = reply
        exchange.invoked = None
        return exchange

    def _fields(self, result: Result, length: int) -> Headers | bytes:
        """Return `headers`, as lines where all but two values is the same in each answer."""
        served = self.served
        assert served is not None
        if result.http is not None or not served.success_lines:
            return self.headers(result, length)
        return b"%bcontent-length: %d\r\ntraceparent: %b\r\n" % (served.success_lines, length, self.span.encode())

    def receive(self, answer: Result | Exception) -> None:
        """Take the result of the guest, or the reason why there is none."""
        self.invoked = None  # it leads back here
        try:
            self._reply(self._made_of(answer))
        except Exception:  # a bug; a step of the pool must go on
            log.exception("a request could not be answered", extra=fields(request_id=self.span[36:52]))
            log_refusal(self.span, 500, INTERNAL_ERROR)
            self._reply(plain_error(500, INTERNAL_ERROR, [CLOSE, (b"traceparent", self.span.encode())]))

    def _made_of(self, answer: Result | Exception) -> Laid:
        if isinstance(answer, Result):
            failed = self.ran(answer)
            if failed is not None:
                return self.failed_laid(failed)
            self.completed(answer)
            return 200, self._fields(answer, len(answer.stdout)), answer.stdout
        return self.failed(answer if isinstance(answer, Failure) else self.error(answer), http1=True)

    def abandon(self) -> None:
        """Cancel the invocation: the caller has gone."""
        if self.invoked is not None:
            self.invoked.abandon()
        self.left()

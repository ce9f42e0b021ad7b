"""Streaming invocations, the worker's side: the request's body comes through the worker's socket, the response leaves.

The front sends body bytes only for credit it was given, so what lies here unread is bounded; the response is written as
the socket takes it, so a caller that reads slowly slows the guest down.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hostfuncs.abi import HostTrap
from hostfuncs.outbound import OutboundError
from hostfuncs.outbound.fields import content_length
from hostfuncs.wasip2 import BytesSource, Source
from sandboxd.limit_keys import shown
from sandboxd.limits import KIB, Limits
from sandboxd.outcome import Outcome
from sandboxd.wire import messages as m
from sandboxd.worker.component_response import ResponseKeeper
from sandboxd.worker.link import Link

WINDOW_BYTES: Final = 256 * KIB
"""Of a request's body, what may be on its way or lie here unread."""
HELD_BYTES: Final = 1024 * KIB
"""Of a response's body, what a guest may write before it has set the response: as much as wasmtime's host takes."""
BODY_LIMIT: Final = "http_body_bytes"
_PIECE: Final = 64 * KIB
_BODILESS: Final = frozenset((204, 304))


class RequestFlow:
    """The body of a request that arrives while the guest runs. A `hostfuncs.wasip2.Source` and its `Inlet`.

    Parameters:
        link: where it comes from. Giving the first credit tells the front that the invocation has begun.
        invocation: its id.
    """

    def __init__(self, link: Link, invocation: int) -> None:
        self._link = link
        self._id = invocation
        self._pieces: deque[bytes] = deque()
        self._at = 0
        self._ended = False
        self._taken = 0
        self.wait = link.wait
        self.fileno = link.fileno
        link.tell(m.RequestCredit(invocation, WINDOW_BYTES))

    def __repr__(self) -> str:
        return f"<RequestFlow {len(self._pieces)} pieces{' ended' if self._ended else ''}>"

    def pump(self) -> None:
        """Take in what has arrived, without waiting.

        Raises:
            Cancelled: the front is gone.
        """
        for message in self._link.take(self._id):
            if message.data:
                self._pieces.append(message.data)
            self._ended = self._ended or message.last

    def ready(self) -> bool:
        """See Source."""
        if not self._pieces and not self._ended:
            self.pump()
        return bool(self._pieces) or self._ended

    def read(self, size: int) -> bytes | None:
        """See Source."""
        if not self.ready():
            return b""
        if not self._pieces:
            return None
        first = self._pieces[0]
        data = first[self._at : self._at + size]
        self._at += len(data)
        if self._at == len(first):
            self._pieces.popleft()
            self._at = 0
        self._taken += len(data)
        if self._taken >= WINDOW_BYTES // 2 and not self._ended:
            self._link.tell(m.RequestCredit(self._id, self._taken))
            self._taken = 0
        return data


class StreamedResponse(ResponseKeeper):
    """A `hostfuncs.wasip2.Responder` that sends the response while the guest writes it.

    Parameters:
        link: where it goes.
        invoke: the invocation; its request's method decides whether there is a body.
        limit: bytes of the body.
    """

    def __init__(self, link: Link, invoke: m.Invoke, limit: int) -> None:
        super().__init__()
        self._link = link
        self._id = invoke.id
        self._head_only = invoke.http is not None and invoke.http.method == "HEAD"
        self._limit = limit
        self._expected: int | None = None
        self._bodiless = False
        self._held: list[bytes] = []
        self._sent_head = False
        self.total = 0

    @property
    def body(self) -> StreamedResponse:
        """See Responder: a Sink."""
        return self

    def head(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """See Responder. An answer that cannot be one is kept from the caller; `outcome` tells why."""
        super().head(status, headers)
        if self.unfit():
            return
        self._bodiless = self._head_only or status in _BODILESS
        try:
            self._expected = None if self._bodiless else content_length(headers)
        except OutboundError:
            self.abort("its Content-Length is no number")
            return
        self._sent_head = True
        held = [] if self._bodiless else [m.ResponseBody(self._id, data) for data in self._held]
        self._held = []
        self._link.tell(m.ResponseHead(self._id, status, headers), *held)

    def ready(self) -> bool:
        """See Sink."""
        return self.permit() > 0

    def permit(self) -> int:
        """See Sink."""
        if self._sent_head or self.unfit():
            return _PIECE
        return max(0, min(_PIECE, HELD_BYTES - self.total))

    def write(self, data: bytes) -> None:
        """See Sink. Raises HostTrap over the limit, Cancelled if the front is gone."""
        self.total += len(data)
        if self.total > self._limit:
            most = shown(BODY_LIMIT, self._limit)
            raise HostTrap(f"the response's body is longer than {most}", limit=BODY_LIMIT)
        if not data or self._bodiless or self.unfit():
            return
        if self._sent_head:
            self._link.tell(m.ResponseBody(self._id, data))
        else:
            self._held.append(data)

    def outcome(self) -> tuple[Outcome, int, str, m.HttpResponse | None]:
        """As ResponseKeeper; the head has gone ahead."""
        if self._expected is not None and self.finished and self.total != self._expected:
            self.abort(f"{self.total} bytes of a body of {self._expected}")
        outcome, code, detail, _ = super().outcome()
        return outcome, code, detail, None


class Flow:
    """Both directions of one streaming invocation.

    Parameters:
        link: the worker's.
        invoke: the invocation.
        limits: the binding's.
    """

    def __init__(self, link: Link, invoke: m.Invoke, limits: Limits) -> None:
        self.response = StreamedResponse(link, invoke, limits.http_body_bytes)
        self.inlet = RequestFlow(link, invoke.id) if invoke.body_follows else None
        self.request: Source = self.inlet or BytesSource(invoke.stdin)

    def __repr__(self) -> str:
        return f"<Flow {self.response!r} {self.inlet!r}>"

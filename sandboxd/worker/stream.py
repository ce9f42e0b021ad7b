"""The worker's side of streaming invocations: request bodies arrive and responses leave through the worker's socket.

The front sends body bytes only for credit that it was given, so the unread bytes here are bounded. The response is
written as fast as the socket takes it, so a caller that reads slowly slows the guest down.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hostfuncs.abi import HostTrap
from hostfuncs.outbound.fields import content_length
from hostfuncs.running.endings import Ending
from hostfuncs.running.response import ResponseRecorder
from hostfuncs.wasip2 import BytesSource, Source
from sandboxd.limits import KIB, Limits
from sandboxd.limits.keys import shown
from sandboxd.wire import messages as m
from sandboxd.worker.channel import Channel

HELD_BYTES: Final = 1024 * KIB
"""The most of a response's body that a guest may write before it sets the response, as in wasmtime's host."""
BODY_LIMIT: Final = "http_body_bytes"
_PIECE: Final = 64 * KIB
_BODILESS: Final = frozenset((204, 304))


class RequestFlow:
    """The body of a request that arrives while the guest runs. A `hostfuncs.wasip2.Source` and its `InputPump`.

    Parameters:
        channel: where it comes from.
        invocation: its id.
    """

    def __init__(self, channel: Channel, invocation: int) -> None:
        self._channel = channel
        self._id = invocation
        self._pieces: deque[bytes] = deque()
        self._at = 0
        self._ended = False
        self._taken = 0
        self.wait = channel.wait
        self.fileno = channel.fileno

    def __repr__(self) -> str:
        return f"<RequestFlow {len(self._pieces)} pieces{' ended' if self._ended else ''}>"

    def open(self) -> None:
        """Give the first credit, which tells the front that the invocation has begun.

        Raises:
            Cancelled: the front is gone.
        """
        self._channel.tell(m.RequestCredit(self._id, m.WINDOW_BYTES))

    def pump(self) -> None:
        """Take in what has arrived. Does not wait.

        Raises:
            Cancelled: the front is gone.
        """
        for message in self._channel.take(self._id):
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
        if self._taken >= m.WINDOW_BYTES // 2 and not self._ended:
            self._channel.tell(m.RequestCredit(self._id, self._taken))
            self._taken = 0
        return data


class StreamedResponse(ResponseRecorder):
    """A `hostfuncs.wasip2.Responder` that sends the response while the guest writes it.

    Parameters:
        channel: where it goes.
        invoke: the invocation. The method of its request decides whether there is a body.
        limit: bytes of the body.
    """

    def __init__(self, channel: Channel, invoke: m.Invoke, limit: int) -> None:
        super().__init__()
        self._channel = channel
        self._id = invoke.id
        self._head_only = invoke.call.http is not None and invoke.call.http.method == "HEAD"
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
        """See Responder. A head that is not valid is not sent; `conclude` tells why."""
        super().head(status, headers)
        if self.has_failed() or self._head is None:
            return
        headers = self._head.headers
        self._bodiless = self._head_only or status in _BODILESS
        self._expected = None if self._bodiless else content_length(headers)
        if self._expected and self.finished and not self.total:
            # It has no body at all, so what it announced cannot come. wasmtime says the truth in its place.
            headers = tuple(line for line in headers if line[0].lower() != b"content-length")
            self._expected = None
        self._sent_head = True
        held = [] if self._bodiless else [m.ResponseBody(self._id, data) for data in self._held]
        self._held = []
        self._channel.tell(m.ResponseHead(self._id, status, headers), *held)

    def ready(self) -> bool:
        """See Sink."""
        return self.permit() > 0

    def permit(self) -> int:
        """See Sink."""
        if self._sent_head or self.has_failed():
            return _PIECE
        return max(0, min(_PIECE, HELD_BYTES - self.total))

    def write(self, data: bytes) -> None:
        """See Sink. Raises HostTrap over the limit, Cancelled if the front is gone."""
        self.total += len(data)
        if self.total > self._limit:
            most = shown(BODY_LIMIT, self._limit)
            raise HostTrap(f"the response's body is longer than {most}", limit=BODY_LIMIT)
        if not data or self._bodiless or self.has_failed():
            return
        if self._sent_head:
            self._channel.tell(m.ResponseBody(self._id, data))
        else:
            self._held.append(data)

    def conclude(self) -> Ending:
        """See ResponseRecorder. The head was sent before."""
        if self._expected is not None and self.total != self._expected:
            self.abort(f"{self.total} bytes of a body of {self._expected}")
        return super().conclude()


class Flow:
    """Both directions of one streaming invocation.

    Parameters:
        channel: the worker's.
        invoke: the invocation.
        limits: the binding's.
    """

    def __init__(self, channel: Channel, invoke: m.Invoke, limits: Limits) -> None:
        self.response = StreamedResponse(channel, invoke, limits.http_body_bytes)
        self.input_pump = RequestFlow(channel, invoke.id) if invoke.body_follows else None
        self.request: Source = self.input_pump or BytesSource(invoke.call.stdin)

    def __repr__(self) -> str:
        return f"<Flow {self.response!r} {self.input_pump!r}>"

"""The bounds of a connection in time, and what `Connections` asks of it: looked after at each sweep, without timers."""

import asyncio
import time
from typing import Final

from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc.calls import Call
from sandboxd.front.grpc.frames import ErrorCode
from sandboxd.front.grpc.outgoing import Outgoing
from sandboxd.front.grpc.status import Code, GrpcError
from sandboxd.front.servers.connections import Connections
from sandboxd.front.servers.refusals import Refusal, Refusals

IDLE_S: Final = 300.0
"""Connections without calls are closed after this time."""
PING_S: Final = 60.0
"""Connections from which nothing came are asked after this time whether they live, and have a third of it to answer."""
GRACE_NS: Final = 250_000_000
"""A deadline that has passed for so long is the front's to keep. Until then the pool ends the guest at it."""
_KEEPALIVE: Final = b"keepaliv"
_NOT_IN_TIME: Final = "the request's message did not come in time"


class Upkeep:
    """What a connection is asked from time to time.

    Parameters:
        table: of the connections.
        refusals: told of callers that are turned away.
    """

    transport: asyncio.Transport
    out: Outgoing

    def __init__(self, table: Connections, refusals: Refusals) -> None:
        self.limits = table.limits
        self.refusals = refusals
        self.peer = ""
        self.calls: dict[int, Call] = {}
        """The streams of which a side is open, by their numbers."""
        self.made = self.heard = self.idle_at = time.monotonic()
        """When the connection was made, when something came from it, since when it has no calls."""
        self.fed = False
        """Whether anything came."""
        self.settled = False
        """Whether the caller's preface and settings have come."""
        self.partial = False
        """Whether what came last ends within a frame."""
        self.block_since: float | None = None
        """Since when a header block is awaited that is not whole."""
        self._pinged = 0.0

    def reset(self, stream: int, code: ErrorCode) -> None:
        """End a stream."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection; what has come is answered."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close the connection at once."""
        raise NotImplementedError

    def idle_since(self) -> float | None:
        """See `Connection`."""
        return None if self.calls or self.transport.is_closing() else self.idle_at

    def unread(self) -> int:
        """See `Connection`."""
        return self.out.held + self.transport.get_write_buffer_size()

    def sent(self) -> int:
        """See `Connection`."""
        return self.out.written - self.transport.get_write_buffer_size()

    def overdue(self, now: float) -> Refusal | None:
        """See `Connection`. Calls that owe something, or are owed something for too long, are ended here."""
        limits = self.limits
        if not self.settled and now - self.made > limits.head_timeout_s:
            if self.fed:
                return Refusal.HEAD_TIMEOUT
            self.transport.close()
            return None
        if self.block_since is not None and now - self.block_since > limits.head_timeout_s:
            return Refusal.HEAD_TIMEOUT
        if not self.out.paused:
            if self.partial and now - self.heard > limits.body_timeout_s:
                return Refusal.BODY_TIMEOUT
            self._keep_alive(now)
        if self.calls:
            self._look_after_calls(now)
        elif now - self.idle_at > IDLE_S:
            self.close()
        return None

    def _keep_alive(self, now: float) -> None:
        if self.heard > self._pinged:
            self._pinged = 0.0
        if self._pinged:
            if now - self._pinged > PING_S / 3:
                self.abort()
        elif self.settled and now - self.heard > PING_S:
            self._pinged = now
            self.out.put(f.frame(f.PING, 0, 0, _KEEPALIVE))

    def _look_after_calls(self, now: float) -> None:
        now_ns = int(now * 1e9)
        for call in list(self.calls.values()):
            if call.sent:
                if now_ns - call.moved_ns > self.limits.body_timeout_s * 1e9:
                    # It was answered long ago, and its caller goes on (RFC 9113, 8.1).
                    self.refusals.add(Refusal.BODY_TIMEOUT)
                    self.reset(call.id, ErrorCode.NO_ERROR)
            elif not call.answered:
                if not call.started and self._is_late(call, now_ns):
                    self.refusals.add(Refusal.BODY_TIMEOUT)
                    call.fail(GrpcError(Code.DEADLINE_EXCEEDED, _NOT_IN_TIME))
                elif call.deadline_ns is not None and now_ns > call.deadline_ns + GRACE_NS:
                    call.give_up()
                    call.answered = False
                    call.fail(GrpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        for call in self.out.stuck(now, self.limits.send_timeout_s, self.limits.min_rate):
            self.refusals.add(Refusal.SEND_TIMEOUT)
            self.reset(call.id, ErrorCode.CANCEL)

    def _is_late(self, call: Call, now_ns: int) -> bool:
        """Return whether a message comes too slowly."""
        limits = self.limits
        if now_ns - call.moved_ns > limits.body_timeout_s * 1e9:
            return True
        graced_s = (now_ns - call.began_ns) * 1e-9 - limits.body_timeout_s
        if call.method is None or call.method.each is not None:
            return False
        return graced_s * limits.min_rate > (0 if call.body is None else call.body.received)

"""What is sent on a connection: frames joined to one write per turn of the event loop, within the caller's windows.

An answer that fits into the windows goes at once. Of the others what fits is sent, and the rest is held until the
caller grants more (RFC 9113, 5.2), a piece of each in turn.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from sandboxd.front.grpc import answers
from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc.calls import Call
from sandboxd.front.grpc.frames import ConnectionBroken, ErrorCode, StreamBroken
from sandboxd.front.grpc.status import Code, GrpcError

TURN_BYTES: Final = 64 * 1024
"""The most of one answer that is sent before the next one has its turn."""
_TOO_MUCH: Final = "too many responses wait for callers to read them"

_HEAD: Final = f.frame(f.HEADERS, f.END_HEADERS, 0, answers.HEAD)[:5]
_TAIL: Final = f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 0, answers.OK)[:5]
"""The frame heads of the constant blocks, up to the stream."""


class Outgoing:
    """See the module.

    Parameters:
        transport: where it is written.
        over: called with each call whose answer is sent.
        earned: called with the bytes of each answer.
        large: called when part of an answer was held.
        most_held: bytes that may be held. A longer answer is refused if others are held already.
        refused: called when an answer was refused for that.
    """

    __slots__ = (
        "_earned",
        "_flushing",
        "_held_calls",
        "_large",
        "_loop",
        "_most_held",
        "_out",
        "_over",
        "_refused",
        "_transport",
        "held",
        "initial_window",
        "max_frame",
        "paused",
        "window",
        "written",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        over: Callable[[Call], None],
        earned: Callable[[int], None],
        large: Callable[[], None],
        most_held: int,
        refused: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._over = over
        self._earned = earned
        self._large = large
        self._most_held = most_held
        self._refused = refused
        self._out: list[bytes] = []
        self._flushing = False
        self._held_calls: dict[int, Call] = {}
        self.held = 0
        """Bytes of answers that wait for the caller's windows."""
        self.written = 0
        """Bytes that were given to the transport."""
        self.paused = False
        """Whether the transport has enough."""
        self.window = f.WINDOW
        self.initial_window = f.WINDOW
        self.max_frame = f.LEAST_FRAME_BYTES

    def __repr__(self) -> str:
        return f"<Outgoing {self.held} bytes held, window {self.window}>"

    # answers ----------------------------------------------------------------------------------------------------------

    def answer(self, call: Call, message: bytes) -> None:
        """Send a message, and the status OK. See `Sender`."""
        size = len(message) + 5
        head = call.admitted.head
        if size > self.max_frame or size > call.window_out or size > self.window:
            if self.held and self.held + size > self._most_held:
                self._refused()
                self.fail(call, GrpcError(Code.RESOURCE_EXHAUSTED, _TOO_MUCH))
                return
            self.begin(call)
            self.hold(call, b"\0" + len(message).to_bytes(4, "big") + message)
            self.end(call, answers.OK)
            return
        stream = call.id.to_bytes(4, "big")
        if head is answers.HEAD:
            self._out += (_HEAD, stream, head)
        else:
            self._out.append(f.headers(call.id, head, end=False))
        self._out += (
            size.to_bytes(3, "big"), b"\0\0", stream, b"\0", len(message).to_bytes(4, "big"), message,
            _TAIL, stream, answers.OK,
        )  # fmt: skip
        call.window_out -= size
        self.window -= size
        self._sent(call, size)

    def fail(self, call: Call, error: GrpcError) -> None:
        """Send the status of a call that failed. See `Sender`."""
        block = answers.failed(error, begun=call.begun)
        if call.begun:
            self.end(call, block)
            return
        self._out.append(f.headers(call.id, block, end=True))
        self._sent(call, len(block))

    def begin(self, call: Call) -> None:
        """Send the head of an answer."""
        call.begun = True
        self._out.append(f.headers(call.id, call.admitted.head, end=False))
        self.flush_soon()

    def hold(self, call: Call, data: bytes) -> None:
        """Send data as soon as the windows allow."""
        if not call.held:
            call.held_since = call.held_moved = time.monotonic()
            call.held_size = call.held_at = 0
            call.held = memoryview(data)
        else:
            call.held = memoryview(b"".join((call.held[call.held_at :], data)))
            call.held_at = 0
        call.held_size += len(data)
        self.held += len(data)
        self._held_calls[call.id] = call

    def end(self, call: Call, block: bytes) -> None:
        """End the stream with a block, behind what is held for it."""
        call.tail = block
        self._held_calls[call.id] = call
        self.pump()
        if self.held:
            self._large()

    def forget(self, call: Call) -> None:
        """Drop what is held for a stream that is no more."""
        if self._held_calls.pop(call.id, None) is not None:
            self.held -= len(call.held) - call.held_at
            call.held = memoryview(b"")

    def stuck(self, now: float, timeout_s: float, min_rate: int) -> list[Call]:
        """Return the calls whose answers are not read, or too slowly.

        Parameters:
            now: CLOCK_MONOTONIC. Seconds.
            timeout_s: the longest time in which nothing of one is read.
            min_rate: the least pace after that time, in bytes per second; 0 for any.
        """
        return [
            call
            for call in self._held_calls.values()
            if call.held
            and (
                now - call.held_moved > timeout_s
                or (min_rate and now - call.held_since > timeout_s + call.held_size / min_rate)
            )
        ]

    def _sent(self, call: Call, size: int) -> None:
        call.sent = True
        if not call.ended:
            call.moved_ns = time.monotonic_ns()
        self._earned(size)
        self.flush_soon()
        self._over(call)

    # windows ----------------------------------------------------------------------------------------------------------

    def enlarge(self, call: Call | None, size: int) -> None:
        """The caller has granted more.

        Parameters:
            call: whose window it is; None for the connection's.

        Raises:
            ConnectionBroken: the connection's window is larger than any may be.
            StreamBroken: the stream's is.
        """
        if call is None:
            self.window += size
            if self.window > f.MOST_WINDOW:
                raise ConnectionBroken(ErrorCode.FLOW_CONTROL_ERROR, "the window is larger than 2^31-1")
        else:
            call.window_out += size
            if call.window_out > f.MOST_WINDOW:
                raise StreamBroken(ErrorCode.FLOW_CONTROL_ERROR)
        if self._held_calls:
            self.pump()

    def pump(self) -> None:
        """Send what is held, as far as the windows and the transport allow."""
        progress = True
        while progress and not self.paused:
            progress = False
            for call in list(self._held_calls.values()):
                progress = self._send_some(call) or progress
            if progress:
                self.flush()
        self.flush_soon()

    def _send_some(self, call: Call) -> bool:
        """Send a piece of what is held for a call. Return whether there is more to be done for it at once."""
        left = len(call.held) - call.held_at
        size = min(left, call.window_out, self.window, TURN_BYTES)
        stream = call.id.to_bytes(4, "big")
        if size > 0:
            stop = call.held_at + size
            for at in range(call.held_at, stop, self.max_frame):
                piece = call.held[at : min(at + self.max_frame, stop)]
                self._out += (len(piece).to_bytes(3, "big"), b"\0\0", stream, piece)  # type: ignore[arg-type]
            call.held_at = stop
            call.held_moved = time.monotonic()
            call.window_out -= size
            self.window -= size
            self.held -= size
        if size < left:
            return size > 0
        call.held, call.held_at = memoryview(b""), 0
        del self._held_calls[call.id]
        if call.tail is not None:
            self._out.append(f.headers(call.id, call.tail, end=True))
            self._sent(call, call.held_size)
        return False

    # writing ----------------------------------------------------------------------------------------------------------

    def put(self, frame: bytes) -> None:
        """Send a frame with what else is sent in this turn of the event loop."""
        self._out.append(frame)
        self.flush_soon()

    def hurry(self) -> None:
        """A caller of this is about to call `flush` itself."""
        self._flushing = True

    def flush_soon(self) -> None:
        """Write at the end of this turn of the event loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write now."""
        self._flushing = False
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            if not self._transport.is_closing():
                self.written += len(data)
                self._transport.write(data)

"""What the DATA frames of a call bring: given to its message, and that to its method."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from sandboxd.front.grpc import answers
from sandboxd.front.grpc.calls import Call
from sandboxd.front.grpc.frames import ErrorCode, StreamBroken
from sandboxd.front.grpc.messages import PREFIX_BYTES, Inflating, Message, is_plain, is_whole
from sandboxd.front.grpc.outgoing import Outgoing
from sandboxd.front.grpc.status import GrpcError

HEADROOM_BYTES: Final = 16 * 1024 * 1024
"""So much is read and dropped of a call that is answered already, before its stream is reset."""
UNREAD_BYTES: Final = 256 * 1024
"""A stream of messages is ended if so much of its answers was not read."""


def feed(call: Call, data: bytes, out: Outgoing, *, max_bytes: int, end: bool) -> None:
    """Take the payload of a DATA frame.

    Parameters:
        call: on whose stream it came.
        data: without padding; empty with the end of the stream alone.
        out: of the connection.
        max_bytes: the longest message.
        end: whether the stream ends with it.

    Raises:
        StreamBroken: the caller goes on to send what is not wanted.
    """
    if call.answered or call.started:
        call.dropped += len(data)
        if call.dropped > HEADROOM_BYTES:
            raise StreamBroken(ErrorCode.NO_ERROR)
        return
    method = call.method
    assert method is not None
    try:
        body = call.body
        if body is None:
            if method.each is None and is_whole(data, max_bytes):
                call.start(data[PREFIX_BYTES:])
                return
            body = call.body = Message(max_bytes)
        if method.each is not None:
            _feed_stream(call, body, method.each, data, out, end=end)
            return
        prefixed = body.take(data) if data else None
        if prefixed is None:
            if end:
                raise body.missing()
            if data:
                call.moved_ns = time.monotonic_ns()
        elif is_plain(prefixed):
            call.start(prefixed[PREFIX_BYTES:])
        else:
            call.started = True
            _inflate(call, Inflating(prefixed, call.head.encoding, max_bytes))
    except GrpcError as error:
        call.fail(error)


def _inflate(call: Call, inflating: Inflating) -> None:
    message = inflating.begin()
    if message is not None:
        call.start(message)
        return
    working = asyncio.get_running_loop().run_in_executor(None, inflating.finish)

    def done(working: "asyncio.Future[bytes]") -> None:
        if working.cancelled() or call.answered:
            return
        call.abandon = None
        try:
            call.start(working.result())
        except GrpcError as error:
            call.fail(error)
        except Exception:  # noqa: BLE001 - a bug, which is logged there
            call.broke()

    def abandon() -> None:
        working.cancel()

    call.abandon = abandon
    working.add_done_callback(done)


def _feed_stream(
    call: Call, body: Message, each: Callable[[bytes], bytes], data: bytes, out: Outgoing, *, end: bool
) -> None:
    """Answer each message of a stream.

    Raises:
        GrpcError: the stream ends with an error.
        StreamBroken: the caller does not read its answers.
    """
    call.moved_ns = time.monotonic_ns()
    for prefixed in body.next(data):
        if not is_plain(prefixed):
            message = Inflating(prefixed, call.head.encoding, UNREAD_BYTES).finish()
        else:
            message = prefixed[PREFIX_BYTES:]
        reply = each(message)
        if not call.begun:
            out.begin(call)
        out.hold(call, b"\0" + len(reply).to_bytes(4, "big") + reply)
        out.pump()
        if len(call.held) - call.held_at > UNREAD_BYTES:
            raise StreamBroken(ErrorCode.ENHANCE_YOUR_CALM)
    if end:
        if not call.begun:
            out.begin(call)
        call.answered = True
        out.end(call, answers.OK)

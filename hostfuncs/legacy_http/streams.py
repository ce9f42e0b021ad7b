"""`streams`: bodies. Source: wasi-go, imports/wasi_http/streams."""

from hostfuncs.legacy_http.calls import SMALL_BODY_BYTES, Calls, Function
from hostfuncs.legacy_http.things import Pollable, Reader, Writer
from hostfuncs.outbound import OutboundError

MAX_READ_BYTES = 1024 * 1024
"""Most that one `read` answers, however much the guest asks for."""

ENDED, OPEN = 0, 1


def read(calls: Calls, function: str, stream: int, length: int, out: int) -> None:
    """Read what has arrived; waits while nothing has.

    More than one piece is returned where more is there: guests written against the reference read a body with a
    single call.

    Parameters:
        length: most bytes to return, u64; at most MAX_READ_BYTES are.
        out: gets {0, ptr, len, status}, status 0 after the last byte, else 1; {1, 0, 0, 0} if the body broke off.
            The bytes are allocated with `cabi_realloc`.

    Traps: no such input stream; out outside memory; `cabi_realloc` misbehaves. Ends the guest at its deadline.
    """
    body = calls.get(function, "stream", stream, Reader).exchange.body
    calls.check_answer(function, out, 16)
    most = min(length, MAX_READ_BYTES)
    pieces: list[bytes] = []
    if most:
        calls.wait(body.ready)
        left = most
        try:
            while left:
                piece = body.read(left)
                if not piece:
                    if body.complete():
                        break
                    # What has reached the socket meanwhile belongs to this read too, but it is not waited for.
                    calls.exchanges.turn()
                    piece = body.read(left)
                    if not piece:
                        break
                pieces.append(piece)
                left -= len(piece)
        except OutboundError:
            if not pieces:
                calls.answer(function, out, 1, 0, 0, 0)
                return
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    pointer = calls.give(function, data)
    calls.answer(function, out, 0, pointer, len(data), ENDED if body.ended else OPEN)


def write(calls: Calls, function: str, stream: int, pointer: int, length: int, out: int) -> None:
    """Append to the body of a request that was not sent yet.

    Parameters:
        out: gets {0, written}; {1, 0} once the request was sent, over the limit for a body, or if the host would hold
            more than HELD_BODIES of the largest bodies.

    Traps: no such output stream; the bytes or out outside memory.
    """
    writer = calls.get(function, "stream", stream, Writer)
    calls.check_answer(function, out, 8)
    room = calls.exchanges.limits.body_bytes - len(writer.data)
    # Checked before it is copied: a guest can name much more than it may send.
    data = calls.data(function, "bytes", pointer, length, 0 if length > room else length)
    # What the host holds altogether is added up once in a while only.
    steps = (len(writer.data) + length) // SMALL_BODY_BYTES - len(writer.data) // SMALL_BODY_BYTES
    full = steps > 0 and not calls.may_hold(length)
    if writer.closed or length > room or full:
        calls.answer(function, out, 1, 0)
        return
    writer.data += data
    calls.answer(function, out, 0, length)


def drop_input_stream(calls: Calls, function: str, stream: int) -> None:
    """Give a response's body back; what has not arrived is not waited for. Traps: no such input stream."""
    calls.drop(function, "stream", stream, Reader).exchange.close()


def drop_output_stream(calls: Calls, function: str, stream: int) -> None:
    """Give a request's body back; what was written stays in the request. Traps: no such output stream."""
    calls.drop(function, "stream", stream, Writer)


def subscribe_to_input_stream(calls: Calls, function: str, stream: int) -> int:
    """Make a pollable that is ready when `read` would not wait. Traps: no such input stream."""
    return calls.add(function, Pollable(calls.get(function, "stream", stream, Reader)))


def subscribe_to_output_stream(calls: Calls, function: str, stream: int) -> int:
    """Make a pollable that is always ready: `write` never waits. Traps: no such output stream."""
    return calls.add(function, Pollable(calls.get(function, "stream", stream, Writer)))


FUNCTIONS = (
    Function("read", "iIi", "", read),
    Function("write", "iiii", "", write),
    Function("drop-input-stream", "i", "", drop_input_stream),
    Function("drop-output-stream", "i", "", drop_output_stream),
    Function("subscribe-to-input-stream", "i", "i", subscribe_to_input_stream),
    Function("subscribe-to-output-stream", "i", "i", subscribe_to_output_stream),
)

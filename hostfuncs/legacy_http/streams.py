"""`streams`: the bodies of requests and responses. Source: wasi-go, imports/wasi_http/streams."""

from hostfuncs.legacy_http.calls import Calls, Function
from hostfuncs.legacy_http.resources import Pollable, Reader, Writer
from hostfuncs.outbound import OutboundError

MAX_READ_BYTES = 1024 * 1024
"""The most bytes that one `read` returns, even if the guest wants more."""

ENDED, OPEN = 0, 1


def read(calls: Calls, function: str, stream: int, length: int, out: int) -> None:
    """Read the bytes that have arrived. It waits if there are none.

    Guests that were written for the reference read a body with a single call. Therefore all bytes that have arrived are
    returned, and not only the next piece.

    Parameters:
        stream: a handle of an input stream.
        length: the most bytes to return, u64. At most MAX_READ_BYTES are returned.
        out: gets {0, pointer, length, status}: status 0 after the last byte, else 1. Gets {1, 0, 0, 0} if the body
            broke off. The bytes are in memory that `cabi_realloc` allocated.

    Traps: no such input stream; out outside memory; `cabi_realloc` misbehaves. The guest's deadline ends it here.
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
                    # Bytes that are in the socket by now belong to this read, too. It does not wait for more.
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
    """Append bytes to the body of a request that has not been sent.

    Parameters:
        stream: a handle of an output stream.
        pointer, length: the bytes, which are read from guest memory.
        out: gets {0, bytes written}. Gets {1, 0} once the request was sent, or if the body would exceed its limit.

    Traps: no such output stream; the bytes or out outside memory; the host would hold too much for the guest.
    """
    writer = calls.get(function, "stream", stream, Writer)
    calls.check_answer(function, out, 8)
    room = calls.exchanges.limits.body_bytes - len(writer.data)
    # The size is checked before the bytes are copied: a guest can pass many more than it may send.
    if length <= room:
        calls.account.check(length)
    data = calls.data(function, "bytes", pointer, length, 0 if length > room else length)
    if writer.closed or length > room:
        calls.answer(function, out, 1, 0)
        return
    writer.append(data)
    calls.answer(function, out, 0, length)


def drop_input_stream(calls: Calls, function: str, stream: int) -> None:
    """Drop the handle of a response's body. The rest of the body is not read. Traps: no such input stream."""
    calls.drop(function, "stream", stream, Reader).exchange.close()


def drop_output_stream(calls: Calls, function: str, stream: int) -> None:
    """Drop the handle of a request's body. The request keeps the bytes written. Traps: no such output stream."""
    calls.drop(function, "stream", stream, Writer)


def subscribe_to_input_stream(calls: Calls, function: str, stream: int) -> int:
    """Return a handle of a pollable, which no function takes. Traps: no such input stream."""
    calls.get(function, "stream", stream, Reader)
    return calls.add(function, Pollable())


def subscribe_to_output_stream(calls: Calls, function: str, stream: int) -> int:
    """Return a handle of a pollable, which no function takes. Traps: no such output stream."""
    calls.get(function, "stream", stream, Writer)
    return calls.add(function, Pollable())


FUNCTIONS = (
    Function("read", "iIi", "", read),
    Function("write", "iiii", "", write),
    Function("drop-input-stream", "i", "", drop_input_stream),
    Function("drop-output-stream", "i", "", drop_output_stream),
    Function("subscribe-to-input-stream", "i", "i", subscribe_to_input_stream),
    Function("subscribe-to-output-stream", "i", "i", subscribe_to_output_stream),
)

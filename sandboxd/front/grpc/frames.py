"""The frames of HTTP/2: their types, their bytes, and the errors by which a connection or a stream ends.

Source: RFC 9113, 4.1 (the layout), 6 (the types) and 7 (the error codes).
"""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20
"""The flag PRIORITY of a HEADERS frame."""

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

HEAD_BYTES: Final = 9
LEAST_FRAME_BYTES: Final = 16_384
"""What everybody takes as one frame."""
MOST_FRAME_BYTES: Final = (1 << 24) - 1
WINDOW: Final = 65_535
"""What everybody may send at first, on a connection and on each stream."""
MOST_WINDOW: Final = (1 << 31) - 1
ALL_STREAMS: Final = (1 << 31) - 1

read_head: Final = Struct(">HBBBI").unpack_from
"""A frame's head: the upper and the lower part of the length, the type, the flags, the stream with one bit more."""
_setting: Final = Struct(">HI")


class ErrorCode(IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ConnectionBroken(Exception):  # noqa: N818 - RFC 9113 calls it a connection error
    """The peer broke a rule that ends the connection (RFC 9113, 5.4.1).

    Parameters:
        code: of the GOAWAY frame.
        text: its debug data.
    """

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamBroken(Exception):  # noqa: N818 - RFC 9113 calls it a stream error
    """The peer broke a rule that ends one stream (RFC 9113, 5.4.2).

    Parameters:
        code: of the RST_STREAM frame.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), payload)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(name, value) for name, value in values))


def settings_of(payload: bytes) -> Iterable[tuple[int, int]]:
    """Return the settings in a frame's payload, whose length is a multiple of six."""
    return _setting.iter_unpack(payload)


def goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """Return a GOAWAY frame.

    Parameters:
        last: the last stream that is or may be answered.
        code: why.
        text: debug data.
    """
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode())


def reset(stream: int, code: ErrorCode) -> bytes:
    """Return an RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, size: int) -> bytes:
    """Return a WINDOW_UPDATE frame.

    Parameters:
        stream: 0 for the connection.
        size: bytes that the peer may send beyond what it was allowed.
    """
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def headers(stream: int, block: bytes, *, end: bool, max_frame: int = LEAST_FRAME_BYTES) -> bytes:
    """Return the frames of a header block: HEADERS, and CONTINUATION if it is long.

    Parameters:
        block: the encoded fields.
        end: whether the stream ends with them.
        max_frame: the longest payload that the peer takes.
    """
    flags = END_STREAM if end else 0
    if len(block) <= max_frame:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + max_frame] for at in range(0, len(block), max_frame)]
    out = [frame(HEADERS, flags, stream, pieces[0])]
    out += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    out.append(frame(CONTINUATION, END_HEADERS, stream, pieces[-1]))
    return b"".join(out)


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS frame without its padding.

    Raises:
        ConnectionBroken: there is more padding than payload (RFC 9113, 6.1).
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionBroken(ErrorCode.PROTOCOL_ERROR, "a frame has more padding than payload")
    return payload[1 : len(payload) - payload[0]]

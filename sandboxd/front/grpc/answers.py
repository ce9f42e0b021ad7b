"""The header blocks of answers.

Those of an answer without error are the same for every call, and need no table. Source: gRPC's PROTOCOL-HTTP2.md
(Responses).
"""

import base64
import re
from typing import Final

from sandboxd.front.grpc.header_blocks import literal
from sandboxd.front.grpc.status import GrpcError, Metadata

_STATUS_200: Final = b"\x88"
"""`:status: 200`, from the static table."""
_STATUS: Final = b"\x08\x03"
"""`:status` with a value of three bytes."""
_GRPC: Final = literal(b"content-type", b"application/grpc")
HEAD: Final = _STATUS_200 + _GRPC
"""The head of an answer with a message."""
OK: Final = literal(b"grpc-status", b"0")
"""The trailers of an answer without error."""

_plain = re.compile(r"[ -$&-~]*").fullmatch


def head_with(greeting: Metadata) -> bytes:
    """Return the head of an answer with a message, and initial metadata."""
    return HEAD + b"".join(_encoded(name, value) for name, value in greeting)


def failed(error: GrpcError, *, begun: bool = False) -> bytes:
    """Return the one block of a call that failed.

    Parameters:
        error: why.
        begun: whether a head was sent already.
    """
    head = b""
    if not begun:
        status = error.http_status
        head = (_STATUS_200 if status == 200 else _STATUS + b"%d" % status) + _GRPC
    message = literal(b"grpc-message", percent_encoded(error.message))
    trailers = b"".join(_encoded(name, value) for name, value in error.trailers())
    return head + literal(b"grpc-status", b"%d" % error.code) + message + trailers


def _encoded(name: str, value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return literal(name.encode(), base64.b64encode(value).rstrip(b"="))
    return literal(name.encode(), value.encode())


def percent_encoded(text: str) -> bytes:
    """Return a message as `grpc-message` has it: all but printable ASCII characters, and `%`, are escaped."""
    if _plain(text):
        return text.encode()
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode("utf-8", "replace")
    )

"""The head of a call: what a block of decoded header fields asks for, and what is wrong with it.

Sources: RFC 9113, 8.2 and 8.3 (which fields are malformed); gRPC's PROTOCOL-HTTP2.md (Requests); what is refused, and
in which words, grpc-go internal/transport/http2_server.go, operateHeaders.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sandboxd.front.grpc.status import Code, GrpcError, Metadata

OWN: Final = frozenset(
    ("te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-internal-encoding-request")
)
"""The headers of the protocol itself, which no method sees."""
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_OF_A_CONNECTION: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_UNIT_NS: Final = {
    b"H": 3_600_000_000_000,
    b"M": 60_000_000_000,
    b"S": 1_000_000_000,
    b"m": 1_000_000,
    b"u": 1_000,
    b"n": 1,
}
_OVERHEAD_BYTES: Final = 32
"""What each field counts beside its bytes (RFC 9113, 6.5.2)."""

_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_bad_value = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$").search
_timeout = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
_content_type = re.compile(rb"application/grpc(\+proto)?([ ;].*)?").fullmatch


class Head:
    """A block of fields, as the head of a call or as its trailers.

    Parameters:
        fields: in the order in which they came.
        max_bytes: the most that they may count.
    """

    __slots__ = (
        "admitted",
        "content_length",
        "encoding",
        "error",
        "malformed",
        "malformed_trailers",
        "metadata",
        "method",
        "path",
        "size",
        "timeout_ns",
    )

    def __init__(self, fields: Sequence[tuple[bytes, bytes]], max_bytes: int) -> None:
        self.size = sum(len(name) + len(value) + _OVERHEAD_BYTES for name, value in fields)
        self.malformed = False
        """Whether it is no head of a request (RFC 9113, 8.1.1)."""
        self.malformed_trailers = False
        """Whether it is no trailer section."""
        self.path = ""
        self.metadata: Metadata = ()
        """The headers that a method sees."""
        self.timeout_ns: int | None = None
        """What is left until the caller's deadline. None for no deadline."""
        self.encoding = b""
        """Of compressed messages; empty for none."""
        self.content_length = -1
        self.error: GrpcError | None = None
        """The answer to a call that is refused for its head."""
        self.method: Any = None
        self.admitted: Any = None
        """What the server has found for it; kept where the head comes again."""
        if self.size > max_bytes:
            self.error = GrpcError(Code.RESOURCE_EXHAUSTED, f"the headers take {self.size} bytes of {max_bytes}")
            return
        pseudo = _pseudo_of(fields)
        self.malformed_trailers = pseudo is None or bool(pseudo)
        if pseudo is None or not {b":method", b":scheme", b":path"} <= pseudo.keys() or not pseudo[b":path"]:
            self.malformed = True
            return
        self.path = pseudo[b":path"].decode("latin-1")
        self._take(fields[len(pseudo) :], pseudo[b":method"])

    def __repr__(self) -> str:
        return f"<Head of {self.path}>"

    def _take(self, fields: Iterable[tuple[bytes, bytes]], method: bytes) -> None:
        metadata: list[tuple[str, str | bytes]] = []
        content_type = b""
        for name, value in fields:
            key = name.decode("ascii")
            if key not in OWN:
                try:
                    metadata += _values(key, value)
                except (binascii.Error, ValueError):
                    self.error = self.error or GrpcError(Code.INTERNAL, f"malformed binary metadata in header {key}")
                if key == "content-length":
                    self._take_length(value)
            elif key == "grpc-timeout":
                self._take_timeout(value)
            elif key == "grpc-encoding":
                self.encoding = b"" if value == b"identity" else value
            elif key == "content-type":
                content_type = value
        self.metadata = tuple(metadata)
        if not _content_type(content_type):
            text = f'invalid gRPC request content-type "{content_type.decode("latin-1")}"'
            self.error = GrpcError(Code.INVALID_ARGUMENT, text, http_status=415)
        if method != b"POST":
            text = f'Received a HEADERS frame with :method "{method.decode("latin-1")}" which should be POST'
            self.error = GrpcError(Code.INTERNAL, text, http_status=405)

    def _take_length(self, value: bytes) -> None:
        if not value.isdigit() or len(value) > 18 or self.content_length >= 0:
            self.malformed = True
        else:
            self.content_length = int(value)

    def _take_timeout(self, value: bytes) -> None:
        found = _timeout(value)
        if found is None:
            shown = value[:64].decode("latin-1")
            self.error = self.error or GrpcError(Code.INTERNAL, f'malformed grpc-timeout: "{shown}"')
        else:
            self.timeout_ns = int(found[1]) * _UNIT_NS[found[2]]


def _pseudo_of(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """Return the pseudo-header fields, which come first; None if the fields are malformed."""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if _bad_value(value):
            return None
        if name[:1] == b":":
            if regular or name not in _PSEUDO or name in pseudo:
                return None
            pseudo[name] = value
            continue
        regular = True
        if not _name(name) or name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
            return None
    return pseudo


def _values(key: str, value: bytes) -> list[tuple[str, str | bytes]]:
    """Return the metadata in a field. Those of `-bin` are in base64, and may be several with commas between them.

    Raises:
        ValueError: it is no base64.
    """
    if not key.endswith("-bin"):
        try:
            return [(key, value.decode())]
        except UnicodeDecodeError:
            return [(key, value.decode("latin-1"))]
    return [(key, base64.b64decode(_filled(part.strip()), validate=True)) for part in value.split(b",")]


def _filled(text: bytes) -> bytes:
    """Return base64 with the padding that may be left out."""
    return text + b"=" * (-len(text) % 4)

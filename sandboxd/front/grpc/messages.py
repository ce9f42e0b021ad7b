"""The message of a call: found in what its DATA frames bring, bounded, and decompressed.

Sources: gRPC's PROTOCOL-HTTP2.md (Length-Prefixed-Message) and compression.md; the words of refusals are those of
grpc-go, rpc_util.go and server.go, which daprd is built with.
"""

import zlib
from typing import Final

from sandboxd.front.grpc.status import Code, GrpcError

PREFIX_BYTES: Final = 5
INLINE_BYTES: Final = 256 * 1024
"""What of a compressed message becomes longer than this is decompressed in a thread. Bytes."""
STREAMED_BYTES: Final = 64 * 1024
"""The longest message of a stream of them."""
_WINDOW_BITS: Final = {b"gzip": 31, b"deflate": 15}
"""zlib's parameter of each encoding: with gzip's head, and with zlib's."""


class Message:
    """The message of one call, as much of it as there is.

    Parameters:
        max_bytes: the longest that is taken.
    """

    __slots__ = ("_max_bytes", "_parts", "_whole", "received")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._whole = 0
        """Bytes that it takes with its prefix; 0 while that is not known."""
        self.received = 0

    def __repr__(self) -> str:
        return f"<Message {self.received} of {self._whole}>"

    def take(self, data: bytes) -> bytes | None:
        """Take the next bytes.

        Returns:
            the message with its prefix, once it is whole.

        Raises:
            GrpcError: it is too long, or there is more than one.
        """
        self.received += len(data)
        self._parts.append(data)
        if not self._whole:
            if self.received < PREFIX_BYTES:
                return None
            prefix = data if len(self._parts) == 1 else b"".join(self._parts)
            length = int.from_bytes(prefix[1:PREFIX_BYTES], "big")
            if length > self._max_bytes:
                self._parts.clear()
                raise too_long(length, self._max_bytes)
            self._whole = length + PREFIX_BYTES
        if self.received < self._whole:
            return None
        if self.received > self._whole:
            self._parts.clear()
            raise GrpcError(Code.INTERNAL, "the call has more than one request message")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def next(self, data: bytes) -> list[bytes]:
        """Take the next bytes of a stream of messages. Return those that are whole now, each with its prefix.

        Raises:
            GrpcError: one is too long.
        """
        self._parts.append(data)
        rest = b"".join(self._parts)
        found = []
        while len(rest) >= PREFIX_BYTES:
            length = int.from_bytes(rest[1:PREFIX_BYTES], "big")
            if length > STREAMED_BYTES:
                raise too_long(length, STREAMED_BYTES)
            if len(rest) < length + PREFIX_BYTES:
                break
            found.append(rest[: length + PREFIX_BYTES])
            rest = rest[length + PREFIX_BYTES :]
        self._parts = [rest]
        return found

    def missing(self) -> GrpcError:
        """Return the error of a call that ends within its message, or without one."""
        if not self.received:
            return GrpcError(Code.INTERNAL, "the call has no request message")
        return GrpcError(Code.INTERNAL, "unexpected EOF")


def too_long(length: int, limit: int) -> GrpcError:
    """The error of a message that is longer than allowed."""
    return GrpcError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({length} vs. {limit})")


def is_whole(data: bytes, max_bytes: int) -> bool:
    """Return whether these bytes are a message with its prefix, which is neither compressed nor too long."""
    length = len(data) - PREFIX_BYTES
    return 0 <= length <= max_bytes and not data[0] and int.from_bytes(data[1:PREFIX_BYTES], "big") == length


def is_plain(prefixed: bytes) -> bool:
    """Return whether a message is not compressed.

    Raises:
        GrpcError: its first byte says neither.
    """
    if prefixed[0] > 1:
        raise GrpcError(Code.INTERNAL, f"grpc: received unexpected payload format {prefixed[0]}")
    return not prefixed[0]


class Inflating:
    """Decompresses one message.

    Parameters:
        prefixed: the message with its prefix.
        encoding: the call's grpc-encoding; empty for none.
        max_bytes: the longest that it may become.

    Raises:
        GrpcError: the encoding is not known.
    """

    __slots__ = ("_inflater", "_max_bytes", "_out", "_rest")

    def __init__(self, prefixed: bytes, encoding: bytes, max_bytes: int) -> None:
        if not encoding:
            raise GrpcError(Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        bits = _WINDOW_BITS.get(encoding)
        if bits is None:
            name = encoding[:64].decode("latin-1")
            text = f'grpc: Decompressor is not installed for grpc-encoding "{name}"'
            raise GrpcError(Code.UNIMPLEMENTED, text, accepts="gzip,deflate")
        self._inflater = zlib.decompressobj(bits)
        self._max_bytes = max_bytes
        self._rest = prefixed[PREFIX_BYTES:]
        self._out = b""

    def __repr__(self) -> str:
        return f"<Inflating {len(self._out)} bytes so far>"

    def begin(self) -> bytes | None:
        """Return the message; None if it takes longer, and `finish` is to be called in a thread.

        Raises:
            GrpcError: it is malformed or too long.
        """
        return self._go_on(min(INLINE_BYTES, self._max_bytes + 1))

    def finish(self) -> bytes:
        """Return the message.

        Raises:
            GrpcError: it is malformed or too long.
        """
        found = self._go_on(self._max_bytes + 1)
        assert found is not None
        return found

    def _go_on(self, most: int) -> bytes | None:
        try:
            self._out += self._inflater.decompress(self._rest, most - len(self._out))
        except zlib.error as error:
            text = f"grpc: failed to decompress the received message: {error}"
            raise GrpcError(Code.INTERNAL, text) from None
        self._rest = self._inflater.unconsumed_tail
        if len(self._out) > self._max_bytes:
            text = f"grpc: received message after decompression larger than max {self._max_bytes}"
            raise GrpcError(Code.RESOURCE_EXHAUSTED, text)
        if self._inflater.eof:
            return self._out
        if len(self._out) < most:
            raise GrpcError(Code.INTERNAL, "grpc: failed to decompress the received message: unexpected EOF")
        return None

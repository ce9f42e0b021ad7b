"""Encodes and decodes frames: a 4-byte little-endian length, then one MessagePack array. It does no I/O."""

import functools
import struct
from typing import Any

import msgspec

from sandboxd.wire import messages as m

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""The longest frame that is accepted. The limits of bodies and output are lower."""

HEADER = struct.Struct("<I")

ToWorker = m.Invoke | m.RequestBody
FromWorker = m.Ready | m.Result | m.Skipped | m.RequestCredit | m.ResponseHead | m.ResponseBody | m.Parked | m.NotParked
ToZygote = m.Load | m.Spawn | m.SpawnTemplate | m.SpawnChild | m.Kill
FromZygote = m.Loaded | m.LoadFailed | m.Spawned | m.SpawnFailed | m.Exited

ToTemplate = m.Fork
FromTemplate = m.Forked

_encoder = msgspec.msgpack.Encoder()


class ProtocolError(Exception):
    """The peer sent bytes that are not a frame of this protocol. The connection cannot be used any further."""


def encode(message: m.Message) -> bytes:
    """Encode a message as a frame.

    Raises:
        ProtocolError: the frame would be longer than MAX_FRAME_BYTES.
    """
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return HEADER.pack(len(body)) + body


@functools.cache
def _decoding(kind: Any) -> Any:
    """Return the decoder of a type. It takes half a megabyte. Workers share one that was made before their fork."""
    return msgspec.msgpack.Decoder(kind).decode


class Decoder:
    """Turns a byte stream into messages of the given type.

    Parameters:
        kind: the message type, or union of them, that may arrive.
    """

    def __init__(self, kind: Any) -> None:
        self.most_bytes = MAX_FRAME_BYTES
        """The longest frame that is accepted. It may be changed at any time."""
        self._decode = _decoding(kind)
        self._buffer = bytearray()

    def __repr__(self) -> str:
        return f"<Decoder holding {len(self._buffer)} bytes>"

    def feed(self, data: bytes | bytearray | memoryview) -> list[Any]:
        """Add bytes. Return the messages that they complete, in order.

        Raises:
            ProtocolError: a length is out of range or a body does not decode.
        """
        buffer = self._buffer
        if buffer:
            buffer += data
            view = memoryview(bytes(buffer)) if len(buffer) < 65536 else memoryview(buffer)
        else:
            view = memoryview(data)
        end = len(view)
        at = 0
        out: list[Any] = []
        try:
            while end - at >= 4:
                (length,) = HEADER.unpack_from(view, at)
                if length > self.most_bytes:
                    raise ProtocolError(f"frame of {length} bytes announced, at most {self.most_bytes} allowed")
                if end - at - 4 < length:
                    break
                out.append(self._decode(view[at + 4 : at + 4 + length]))
                at += 4 + length
            # Only new bytes are copied: a long frame arrives in hundreds of pieces.
            rest = b"" if buffer else bytes(view[at:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"frame does not decode: {error}") from error
        finally:
            view.release()
        if buffer:
            if at:
                del buffer[:at]
        elif rest:
            buffer += rest
        return out

"""HTTP/2 under gRPC: however the bytes arrive, the same frames are answered, whole ones, and nothing is raised."""

import asyncio
from typing import Final

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from sandboxd.front.grpc import frames as f
    from tests.unit.grpc_peer import GRPC, Frame, Peer

from hpack import Encoder

_BLOCK: Final = Encoder().encode(GRPC)
_HEADERS: Final = f.frame(f.HEADERS, 4, 1, _BLOCK)
_DATA: Final = f.frame(f.DATA, 1, 1, b"\0\0\0\0\2hi")
SEEDS = (
    b"\x05" + _HEADERS + _DATA,
    b"\x40" + _HEADERS + f.reset(1, f.ErrorCode.CANCEL) + f.frame(f.PING, 0, 0, b"12345678"),
    b"\x01" + f.frame(f.HEADERS, 1, 1, _BLOCK[:9]) + f.frame(f.CONTINUATION, 4, 1, _BLOCK[9:]) + f.window_update(0, 9),
    b"\x09" + f.settings([(4, 3), (5, 16_384)]) + _HEADERS + _DATA + f.window_update(1, 4) + f.settings([(4, 99)]),
    b"\x0d" + f.frame(f.HEADERS, 0x2D, 1, b"\1\0\0\0\3\7" + _BLOCK + b"\0") + f.frame(f.DATA, 9, 1, b"\1\0\0\0\0\0\0"),
    b"\x20" + _HEADERS + f.frame(f.DATA, 1, 1, b"\1\0\0\0\0") + f.goaway(0, f.ErrorCode.NO_ERROR),
)
_loop = asyncio.Runner()


async def answered(pieces: list[bytes]) -> tuple[list[Frame], int | None]:
    """What the server sends, and why it has ended the connection."""
    peer = Peer()
    for piece in pieces:
        peer.send(piece)
        await peer.turns(3)
    await peer.turns(20)
    assert len(peer.connection.calls) <= 100
    return peer.frames, peer.goaway


def target(data: bytes) -> None:
    if len(data) < 2:
        return
    step, stream = data[0] + 1, data[1:]
    whole, ended = _loop.run(answered([stream]))
    parts, also = _loop.run(answered([stream[at : at + step] for at in range(0, len(stream), step)]))
    calm = f.ErrorCode.ENHANCE_YOUR_CALM
    # How far a flood gets depends on what was read at once.
    assert whole == parts or calm in (ended, also)


if __name__ == "__main__":
    fuzz(target)

"""The frame codec: however the bytes arrive, the same messages come out, and only its own error."""

from typing import Any

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from sandboxd.wire import codec
    from sandboxd.wire import messages as m

KINDS: tuple[Any, ...] = (codec.ToWorker, codec.FromWorker, codec.ToZygote, codec.FromZygote)
SEEDS = (
    b"\x00"
    + codec.encode(
        m.Invoke(id=1, guest=0, call=m.Call(deadline_ns=5, args=(b"a",), env=((b"k", b"v"),), stdin=b"x" * 50))
    ),
    b"\x01" + codec.encode(m.Ready(7)) + codec.encode(m.Skipped(8)),
    b"\x02" + codec.encode(m.Spawn(3)) + codec.encode(m.Kill(3)),
    b"\x03" + codec.encode(m.Spawned(3, 4)) + codec.encode(m.Exited(3, 4, -9)),
)


def decoded(kind: Any, pieces: list[bytes]) -> tuple[list[m.Message], bool]:
    """The messages, and whether the stream was refused in the end."""
    decoder = codec.Decoder(kind)
    found: list[m.Message] = []
    for piece in pieces:
        try:
            found += decoder.feed(piece)
        except codec.ProtocolError:
            return found, True
    return found, False


def target(data: bytes) -> None:
    if len(data) < 2:
        return
    kind, step, stream = KINDS[data[0] % 4], data[1] % 32 + 1, data[1:]
    whole, refused = decoded(kind, [stream])
    parts, also = decoded(kind, [stream[at : at + step] for at in range(0, len(stream), step)])
    assert refused == also
    # A refused stream gives up nothing of the piece with the fault; in smaller pieces that is less.
    assert refused or whole == parts
    assert parts[: len(whole)] == whole
    for message in parts:
        assert decoded(kind, [codec.encode(message)]) == ([message], False)


if __name__ == "__main__":
    fuzz(target)

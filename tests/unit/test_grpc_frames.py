"""HTTP/2 under gRPC, frame by frame: RFC 9113's rules for connections, streams and windows, and RFC 7541's for blocks.

Not tested here: sockets and their bounds (`tests/server/test_grpc_floods.py`), and what calls are answered
(`tests/server/test_grpc_golden.py`).
"""

from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder

from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc.streams import CONNECTION_WINDOW, STREAM_WINDOW, STREAMS
from tests.unit.grpc_peer import GRPC, Peer, run

PROTOCOL, FLOW_CONTROL, STREAM_CLOSED, FRAME_SIZE, REFUSED_STREAM, COMPRESSION = 1, 3, 5, 6, 7, 9
"""RFC 9113, 7."""
BLOCK = Encoder().encode(GRPC)
OPEN = f.frame(f.HEADERS, 5, 1, BLOCK)
PART = f.frame(f.HEADERS, 1, 1, BLOCK)
"""The first part of a block."""
CONNECTION_ERRORS: dict[str, tuple[bytes, int]] = {
    "4.2: longer than SETTINGS_MAX_FRAME_SIZE": (f.frame(f.DATA, 0, 1, b"x" * 16_385), FRAME_SIZE),
    "4.3: a block that cannot be decoded": (f.frame(f.HEADERS, 5, 1, b"\x80"), COMPRESSION),
    "4.3: a block that ends within a number": (f.frame(f.HEADERS, 5, 1, b"\xff"), COMPRESSION),
    "5.1: DATA of an idle stream": (f.frame(f.DATA, 1, 1, b"x"), PROTOCOL),
    "5.1: RST_STREAM of an idle stream": (f.reset(1, f.ErrorCode.CANCEL), PROTOCOL),
    "5.1: WINDOW_UPDATE of an idle stream": (f.window_update(1, 1), PROTOCOL),
    "5.1.1: an even stream": (f.frame(f.HEADERS, 5, 2, BLOCK), PROTOCOL),
    "6.1: DATA of stream 0": (f.frame(f.DATA, 1, 0, b"x"), PROTOCOL),
    "6.1: more padding than payload": (OPEN + f.frame(f.DATA, 9, 1, b"\x05abc"), PROTOCOL),
    "6.2: HEADERS of stream 0": (f.frame(f.HEADERS, 5, 0, BLOCK), PROTOCOL),
    "6.2: no room for its priority": (f.frame(f.HEADERS, 0x25, 1, b"\0\0"), FRAME_SIZE),
    "6.2: another frame within a block": (PART + f.frame(f.PING, 0, 0, b"x" * 8), PROTOCOL),
    "6.2: another stream's block within one": (PART + f.frame(f.HEADERS, 5, 3, BLOCK), PROTOCOL),
    "6.3: PRIORITY of stream 0": (f.frame(f.PRIORITY, 0, 0, b"\0\0\0\1\0"), PROTOCOL),
    "6.4: RST_STREAM of stream 0": (f.reset(0, f.ErrorCode.CANCEL), PROTOCOL),
    "6.4: RST_STREAM of three bytes": (f.frame(f.RST_STREAM, 0, 1, b"\0\0\0"), FRAME_SIZE),
    "6.5: SETTINGS of a stream": (f.frame(f.SETTINGS, 0, 1), PROTOCOL),
    "6.5: SETTINGS of five bytes": (f.frame(f.SETTINGS, 0, 0, b"x" * 5), FRAME_SIZE),
    "6.5: an acknowledgement with payload": (f.frame(f.SETTINGS, 1, 0, b"\0\3\0\0\0\1"), FRAME_SIZE),
    "6.5.2: ENABLE_PUSH of 2": (f.settings([(2, 2)]), PROTOCOL),
    "6.5.2: INITIAL_WINDOW_SIZE of 2^31": (f.settings([(4, 1 << 31)]), FLOW_CONTROL),
    "6.5.2: MAX_FRAME_SIZE below its range": (f.settings([(5, 16_383)]), PROTOCOL),
    "6.5.2: MAX_FRAME_SIZE above its range": (f.settings([(5, 1 << 24)]), PROTOCOL),
    "6.6: PUSH_PROMISE": (f.frame(f.PUSH_PROMISE, 4, 1, b"\0\0\0\2" + BLOCK), PROTOCOL),
    "6.7: PING of a stream": (f.frame(f.PING, 0, 1, b"x" * 8), PROTOCOL),
    "6.7: PING of seven bytes": (f.frame(f.PING, 0, 0, b"x" * 7), FRAME_SIZE),
    "6.8: GOAWAY of a stream": (f.frame(f.GOAWAY, 0, 1, b"\0" * 8), PROTOCOL),
    "6.8: GOAWAY of seven bytes": (f.frame(f.GOAWAY, 0, 0, b"\0" * 7), FRAME_SIZE),
    "6.9: WINDOW_UPDATE of nothing": (f.window_update(0, 0), PROTOCOL),
    "6.9: WINDOW_UPDATE of five bytes": (f.frame(f.WINDOW_UPDATE, 0, 0, b"\0\0\0\0\1"), FRAME_SIZE),
    "6.9.1: a window beyond 2^31-1": (f.window_update(0, f.MOST_WINDOW), FLOW_CONTROL),
    "6.10: CONTINUATION without HEADERS": (f.frame(f.CONTINUATION, 4, 1, BLOCK), PROTOCOL),
}  # fmt: skip


@pytest.mark.parametrize("case", CONNECTION_ERRORS)
def test_a_connection_error(case: str) -> None:
    data, code = CONNECTION_ERRORS[case]

    async def main() -> None:
        peer = Peer()
        peer.send(data)
        assert peer.goaway == code
        assert peer.transport.closing
        assert peer.turned_away("malformed") == 1

    run(main)


def without(name: bytes) -> list[tuple[bytes, bytes]]:
    return [field for field in GRPC if field[0] != name]


MALFORMED: dict[str, Any] = {
    "8.2.1: a name in upper case": [*GRPC, (b"X-A", b"1")],
    "8.2.1: a value with a line feed": [*GRPC, (b"x-a", b"a\nb")],
    "8.2.1: a value with NUL": [*GRPC, (b"x-a", b"\0")],
    "8.2.1: a value with a blank at its end": [*GRPC, (b"x-a", b"a ")],
    "8.2.2: connection": [*GRPC, (b"connection", b"close")],
    "8.2.2: te of another kind": [*without(b"te"), (b"te", b"gzip")],
    "8.3: a pseudo-header behind others": [*without(b":path"), (b":path", b"/a/Echo")],
    "8.3: one that is not defined": [(b":x", b"1"), *GRPC],
    "8.3: one of responses": [(b":status", b"200"), *GRPC],
    "8.3.1: no method": without(b":method"),
    "8.3.1: no scheme": without(b":scheme"),
    "8.3.1: no path": without(b":path"),
    "8.3.1: an empty path": [(b":path", b""), *without(b":path")],
    "8.3.1: two paths": [(b":path", b"/b"), *GRPC],
    "8.1.1: a length that is no number": [*GRPC, (b"content-length", b"x")],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_head_ends_its_stream_only(case: str) -> None:
    async def main() -> None:
        peer = Peer()
        peer.headers(1, MALFORMED[case])
        assert peer.answers[1].reset == PROTOCOL
        # What was on its way for the stream is ignored (5.4.2); its data count for the connection's window.
        peer.data(1, b"x")
        assert peer.call(3).data[5:] == b"hi"
        assert peer.goaway is None

    run(main)


STREAM_ERRORS: dict[str, tuple[Callable[[Peer], None], int]] = {
    "5.1: DATA after the end": (lambda peer: peer.data(1, b"x"), STREAM_CLOSED),
    "5.1: HEADERS after the end": (lambda peer: peer.headers(1, end=True), STREAM_CLOSED),
    "5.3.1: it depends on itself": (lambda peer: peer.send(f.frame(f.PRIORITY, 0, 1, b"\0\0\0\1\0")), PROTOCOL),
    "6.3: PRIORITY of four bytes": (lambda peer: peer.send(f.frame(f.PRIORITY, 0, 1, b"\0\0\0\3")), FRAME_SIZE),
    "6.9: WINDOW_UPDATE of nothing": (lambda peer: peer.send(f.window_update(1, 0)), PROTOCOL),
    "6.9.1: beyond 2^31-1": (lambda peer: peer.send(f.window_update(1, f.MOST_WINDOW)), FLOW_CONTROL),
}


@pytest.mark.parametrize("case", STREAM_ERRORS)
def test_a_stream_error_gives_the_call_up(case: str) -> None:
    breach, code = STREAM_ERRORS[case]

    async def main() -> None:
        peer = Peer()
        peer.call(1, b"/a/Wait")
        breach(peer)
        assert peer.answers[1].reset == code
        assert peer.abandoned == peer.calls
        assert peer.call(3).data[5:] == b"hi"
        assert peer.goaway is None

    run(main)


def test_a_block_that_cannot_be_decoded_tells_nothing_of_the_server() -> None:
    """The package's own words for this block hold the address of an object."""

    async def main() -> None:
        peer = Peer()
        peer.send(f.frame(f.HEADERS, 4, 1, b"\xff" * 40 + b"\0"))
        last = peer.frames[-1]
        assert last.kind == f.GOAWAY
        assert last.payload[8:] == b"a header block cannot be decoded"

    run(main)


def test_a_stream_is_not_opened_again() -> None:
    """RFC 9113, 5.1.1."""

    async def main() -> None:
        for stream in (1, 3):
            peer = Peer()
            assert peer.call(3).status == 0
            peer.headers(stream, end=True)
            assert peer.goaway == STREAM_CLOSED

    run(main)


def test_the_most_streams_at_once() -> None:
    """RFC 9113, 5.1.2. REFUSED_STREAM tells that the call may be made again."""

    async def main() -> None:
        peer = Peer()
        for number in range(STREAMS + 1):
            peer.headers(2 * number + 1)
        assert peer.answers[2 * STREAMS + 1].reset == REFUSED_STREAM
        peer.data(1, b"hi")
        assert peer.answers[1].data[5:] == b"hi"
        assert peer.call(2 * STREAMS + 3).status == 0

    run(main)


@pytest.mark.parametrize("piece", [1, 3, 10, 1000])
def test_what_comes_in_pieces(piece: int) -> None:
    async def main() -> None:
        peer = Peer(greets=False)
        data = f.PREFACE + f.settings(()) + f.frame(f.HEADERS, 4, 1, BLOCK)
        data += f.frame(f.DATA, 1, 1, b"\0\0\0\0\2hi") + f.frame(f.PING, 0, 0, b"12345678")
        for at in range(0, len(data), piece):
            peer.send(data[at : at + piece])
        assert (peer.answers[1].data, peer.answers[1].status) == (b"\0\0\0\0\2hi", 0)
        assert peer.frames[-1].payload == b"12345678"
        assert peer.frames[-1].flags == f.ACK

    run(main)


def test_a_block_in_pieces_with_padding_and_priority() -> None:
    """RFC 9113, 6.2 and 6.10."""

    async def main() -> None:
        peer = Peer()
        first = b"\x03" + b"\0\0\0\5\x10" + BLOCK[:9] + b"\0\0\0"
        peer.send(f.frame(f.HEADERS, f.PADDED | f.PRIORITISED, 1, first))
        peer.send(f.frame(f.CONTINUATION, 0, 1, BLOCK[9:20]) + f.frame(f.CONTINUATION, 4, 1, BLOCK[20:]))
        peer.send(f.frame(f.DATA, f.PADDED | 1, 1, b"\x02\0\0\0\0\2hi\0\0"))
        assert peer.answers[1].data[5:] == b"hi"

    run(main)


@pytest.mark.parametrize("preface", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", b"\x16\x03\x01\x02\0", b"PRIx"])
def test_a_preface_that_is_none(preface: bytes) -> None:
    async def main() -> None:
        peer = Peer(greets=False)
        peer.send(preface)
        assert peer.transport.closing
        assert peer.frames == []
        assert peer.turned_away("malformed") == 1

    run(main)


def test_http1_is_told_what_is_served() -> None:
    async def main() -> None:
        peer = Peer(greets=False)
        peer.connection.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        head, _, body = peer.transport.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 505 ")
        assert f"content-length: {len(body)}".encode() in head
        assert peer.transport.closing

    run(main)


def test_the_first_frame_is_settings() -> None:
    """RFC 9113, 3.4."""

    async def main() -> None:
        peer = Peer(greets=False)
        peer.send(f.PREFACE + f.frame(f.PING, 0, 0, b"12345678"))
        assert peer.goaway == PROTOCOL
        assert peer.frames[0].kind == f.SETTINGS

    run(main)


def test_frames_of_unknown_types_are_ignored() -> None:
    """RFC 9113, 4.1."""

    async def main() -> None:
        peer = Peer()
        peer.send(f.frame(0xFE, 0xFF, 9, b"x"))
        assert peer.call(1).status == 0

    run(main)


# windows --------------------------------------------------------------------------------------------------------------


def test_an_answer_waits_for_the_windows() -> None:
    """RFC 9113, 5.2 and 6.9: of the stream, of the connection, and one that SETTINGS make negative."""

    async def main() -> None:
        peer = Peer()
        peer.send(f.settings([(f.INITIAL_WINDOW_SIZE, 10)]))
        answer = peer.call(1, b"/a/Big", b"100")
        assert len(answer.data) == 10
        peer.send(f.settings([(f.INITIAL_WINDOW_SIZE, 0)]))
        peer.send(f.window_update(1, 5))  # the window is -5 after ten bytes of a window that is 0 now
        assert len(answer.data) == 10
        peer.send(f.window_update(1, 6))
        assert len(answer.data) == 11
        small = peer.call(3, b"/a/Echo", b"")
        peer.send(f.window_update(3, 5))
        assert (small.data, small.status) == (b"\0\0\0\0\0", 0)
        peer.send(f.settings([(f.INITIAL_WINDOW_SIZE, 1000)]))
        assert (answer.data, answer.status) == (b"\0\0\0\0\x64" + b"x" * 100, 0)
        assert peer.connection.calls == {}

    run(main)


def test_the_connections_window_is_shared() -> None:
    async def main() -> None:
        peer = Peer()
        peer.send(f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 20)]))
        answers = [peer.call(stream, b"/a/Big", b"60000") for stream in (1, 3)]
        assert sum(len(answer.data) for answer in answers) == 65_535
        assert peer.connection.unread() == 2 * 60_005 - 65_535
        peer.send(f.window_update(0, 1 << 20))
        assert [(len(answer.data), answer.status) for answer in answers] == [(60_005, 0)] * 2
        assert peer.connection.unread() == 0

    run(main)


def test_frames_are_as_long_as_the_caller_takes() -> None:
    """RFC 9113, 4.2."""

    async def main() -> None:
        for size in (16_384, 40_000):
            peer = Peer()
            peer.send(f.settings([(f.MAX_FRAME_SIZE, size)]))
            peer.call(1, b"/a/Big", b"50000")
            lengths = [len(frame.payload) for frame in peer.frames if frame.kind == f.DATA]
            assert (max(lengths), sum(lengths)) == (size, 50_005)

    run(main)


def test_what_callers_send_is_granted_again() -> None:
    """And no more than was granted is taken."""

    async def main() -> None:
        peer = Peer(max_message_bytes=16 << 20)
        peer.headers(1, [(name, b"/a/Wait" if name == b":path" else value) for name, value in GRPC])
        peer.data(1, b"x" * (3 * CONNECTION_WINDOW))
        grants = {0: 0, 1: 0}
        for frame in peer.frames:
            if frame.kind == f.WINDOW_UPDATE:
                grants[frame.stream] += int.from_bytes(frame.payload, "big")
        sent = 3 * CONNECTION_WINDOW + 5
        assert grants[0] + f.WINDOW >= sent - CONNECTION_WINDOW
        assert grants[1] + STREAM_WINDOW >= sent
        assert [len(message) for message in peer.messages] == [3 * CONNECTION_WINDOW]

    run(main)


def test_more_than_was_granted() -> None:
    """RFC 9113, 6.9.1. Whatever a test sends is granted again before the windows are used up; so they shrink here."""

    async def main() -> None:
        frame = f.frame(f.DATA, 0, 1, b"\0" * 101)
        peer = Peer()
        peer.headers(1)
        peer.connection._window_in = 100
        peer.send(frame)
        assert peer.goaway == FLOW_CONTROL
        peer = Peer()
        peer.headers(1)
        peer.connection.calls[1].window_in = 100
        peer.send(frame)
        assert peer.answers[1].reset == FLOW_CONTROL
        assert peer.goaway is None

    run(main)

"""What is gRPC about a call, without a guest: messages, compression, metadata, statuses, deadlines, streams.

Source: gRPC's PROTOCOL-HTTP2.md; texts are grpc-go's, which daprd is built with.
"""

import base64
import time
import zlib
from typing import Any

import pytest

from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc.answers import percent_encoded
from sandboxd.front.grpc.feeding import HEADROOM_BYTES
from sandboxd.front.grpc.status import Code
from tests.unit.grpc_peer import GRPC, Answer, Peer, run

MIB = 1 << 20


def fields(path: bytes = b"/a/Echo", **changed: bytes) -> list[tuple[bytes, bytes]]:
    named = {name.replace("_", "-").encode(): value for name, value in changed.items()}
    head = [(name, path if name == b":path" else named.pop(name.lstrip(b":"), value)) for name, value in GRPC]
    return [*head, *named.items()]


def gzip(data: bytes) -> bytes:
    packing = zlib.compressobj(wbits=31)
    return packing.compress(data) + packing.flush()


def test_an_answer() -> None:
    async def main() -> None:
        answer = Peer().call(1)
        assert answer.head == {b":status": b"200", b"content-type": b"application/grpc"}
        assert answer.data == b"\0\0\0\0\2hi"
        assert answer.trailers == {b"grpc-status": b"0"}
        assert answer.ended

    run(main)


def test_equal_heads_mean_the_same_while_the_table_is_the_same() -> None:
    """A caller's second block has indices only; other fields change the table, and with it what an index means."""

    async def main() -> None:
        peer = Peer()
        for stream in range(1, 40, 2):
            value = b"v%d" % (stream // 8)
            answer = peer.call(stream, b"/a/Headers", b"", (b"x-number", value))
            assert answer.data[5:] == repr((("user-agent", "test"), ("x-number", value.decode()))).encode()
        small = peer.encoder
        small.header_table_size = 0
        assert b"v9" in peer.call(101, b"/a/Headers", b"", (b"x-number", b"v9")).data
        small.header_table_size = 4096
        for stream in (103, 105, 107):
            assert b"v9" in peer.call(stream, b"/a/Headers", b"", (b"x-number", b"v9")).data

    run(main)


def test_metadata() -> None:
    async def main() -> None:
        peer = Peer()
        more = [
            (b"x-a", "é".encode()),
            (b"x-b", b"\xff"),
            (b"x-c-bin", b"AAE"),
            (b"x-c-bin", b"AQ==,Ag"),
            (b"x-a", b"2"),
        ]
        answer = peer.call(1, b"/a/Headers", b"", *more)
        wanted = (
            ("user-agent", "test"), ("x-a", "é"), ("x-b", "ÿ"),
            ("x-c-bin", b"\0\1"), ("x-c-bin", b"\1"), ("x-c-bin", b"\2"), ("x-a", "2"),
        )  # fmt: skip
        assert answer.data[5:] == repr(wanted).encode()
        assert peer.call(3, b"/a/Headers", b"", (b"x-bin", b"!")).status == Code.INTERNAL
        hidden = [(b"grpc-timeout", b"1S"), (b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"gzip")]
        assert peer.call(5, b"/a/Headers", b"", *hidden).data[5:] == b"(('user-agent', 'test'),)"

    run(main)


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"", Code.INTERNAL, b"the call has no request message"),
        (b"\0\0\0", Code.INTERNAL, b"unexpected EOF"),
        (b"\0\0\0\0\2h", Code.INTERNAL, b"unexpected EOF"),
        (b"\0\0\0\0\1h\0\0\0\0\0", Code.INTERNAL, b"the call has more than one request message"),
        (b"\0\0\0\0\1hx", Code.INTERNAL, b"the call has more than one request message"),
        (b"\2\0\0\0\1h", Code.INTERNAL, b"grpc: received unexpected payload format 2"),
        (b"\1\0\0\0\1h", Code.INTERNAL, b"grpc: compressed flag set with identity or empty encoding"),
        (b"\0\0\x40\0\1", Code.RESOURCE_EXHAUSTED, b"grpc: received message larger than max (4194305 vs. 4194304)"),
    ],
)
@pytest.mark.parametrize("pieces", [False, True])
def test_messages_that_are_none(data: bytes, status: Code, text: bytes, pieces: bool) -> None:
    async def main() -> None:
        peer = Peer()
        peer.headers(1)
        if pieces:
            for byte in data:
                peer.send(f.frame(f.DATA, 0, 1, bytes((byte,))))
            peer.send(f.frame(f.DATA, f.END_STREAM, 1))
        else:
            peer.send(f.frame(f.DATA, f.END_STREAM, 1, data))
        answer = peer.answers[1]
        # A message that is whole is answered before more is known to come.
        if not (pieces and b"more than one" in text):
            assert (answer.status, answer.text) == (status, text)
        assert answer.ended
        assert peer.connection.calls == {}
        assert peer.call(3).status == 0

    run(main)


def test_no_message_and_the_end_with_the_head_or_with_trailers() -> None:
    async def main() -> None:
        peer = Peer()
        peer.headers(1, end=True)
        assert peer.answers[1].status == Code.INTERNAL
        peer.headers(3)
        peer.send(f.frame(f.DATA, 0, 3, b"\0\0\0\0\2hi"))
        peer.headers(3, [(b"x", b"y")], end=True)
        assert peer.answers[3].data[5:] == b"hi"
        peer.headers(5)
        peer.headers(5, [(b":path", b"y")], end=True)
        assert peer.answers[5].reset == 1
        peer.headers(7)
        peer.headers(7, [(b"x", b"y")])
        assert peer.answers[7].reset == 1

    run(main)


def test_a_length_that_is_another() -> None:
    """RFC 9113, 8.1.1."""

    async def main() -> None:
        peer = Peer()
        for stream, length in ((1, b"8"), (3, b"6")):
            assert peer.call(stream, b"/a/Echo", b"hi", (b"content-length", length)).reset == 1
        assert peer.call(5, b"/a/Echo", b"hi", (b"content-length", b"7")).status == 0

    run(main)


def test_compressed_messages() -> None:
    async def main() -> None:
        peer = Peer(max_message_bytes=MIB)
        packed = {b"gzip": gzip(b"a" * 1000), b"deflate": zlib.compress(b"a" * 1000)}
        for stream, encoding in ((1, b"gzip"), (3, b"deflate")):
            peer.headers(stream, fields(grpc_encoding=encoding))
            peer.data(stream, packed[encoding], flag=1)
            assert peer.answers[stream].data[5:] == b"a" * 1000
        peer.headers(5, fields(grpc_encoding=b"gzip"))
        peer.data(5, b"plain")
        assert peer.answers[5].data[5:] == b"plain"
        peer.headers(7, fields(grpc_encoding=b"snappy"))
        peer.data(7, b"x", flag=1)
        unknown = peer.answers[7]
        assert (unknown.status, unknown.text) == (
            Code.UNIMPLEMENTED,
            b'grpc: Decompressor is not installed for grpc-encoding "snappy"',
        )
        assert unknown.head[b"grpc-accept-encoding"] == b"gzip,deflate"
        for stream, data in ((9, b"no gzip"), (11, packed[b"gzip"][:-9])):
            peer.headers(stream, fields(grpc_encoding=b"gzip"))
            peer.data(stream, data, flag=1)
            assert peer.answers[stream].text.startswith(b"grpc: failed to decompress the received message")

    run(main)


@pytest.mark.parametrize("size", [MIB, MIB + 1, 100 * MIB])
def test_what_becomes_long_is_decompressed_beside_the_event_loop(size: int) -> None:
    packing = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(packing.compress(bytes(MIB)) for _ in range(size // MIB)), packing.compress(bytes(size % MIB))])
    bomb += packing.flush()

    async def main() -> None:
        peer = Peer(max_message_bytes=MIB)
        peer.headers(1, fields(b"/a/Wait", grpc_encoding=b"gzip"))
        peer.data(1, bomb, flag=1)
        peer.answers.setdefault(1, Answer())
        assert peer.calls == []
        while not peer.calls and not peer.answers[1].ended:
            await peer.turns()
        if size > MIB:
            text = f"grpc: received message after decompression larger than max {MIB}".encode()
            assert (peer.answers[1].status, peer.answers[1].text) == (Code.RESOURCE_EXHAUSTED, text)
        else:
            assert peer.messages == [bytes(size)]

    run(main)


def test_the_rest_of_a_refused_message_is_read() -> None:
    """A caller who reads no answer before it has sent all gets one."""

    async def main() -> None:
        peer = Peer(max_message_bytes=MIB)
        peer.headers(1)
        peer.data(1, b"x" * (4 * MIB), end=False)
        assert peer.answers[1].status == Code.RESOURCE_EXHAUSTED
        assert peer.answers[1].reset is None
        assert 1 in peer.connection.calls
        peer.send(f.frame(f.DATA, f.END_STREAM, 1))
        assert peer.connection.calls == {}
        # But not without end.
        peer.headers(3)
        sent = 0
        while peer.answers.get(3) is None or peer.answers[3].reset is None:
            peer.send(f.frame(f.DATA, 0, 3, b"\xff" * f.LEAST_FRAME_BYTES))
            sent += f.LEAST_FRAME_BYTES
            assert sent <= HEADROOM_BYTES + MIB
        assert peer.answers[3].reset == 0
        assert peer.goaway is None

    run(main)


@pytest.mark.parametrize(
    ("head", "http", "status", "text"),
    [
        ({"content_type": b"application/json"}, b"415", Code.INVALID_ARGUMENT, b'"application/json"'),
        ({"content_type": b"application/grpc+json"}, b"415", Code.INVALID_ARGUMENT, b"content-type"),
        ({"method": b"GET"}, b"405", Code.INTERNAL, b'"GET" which should be POST'),
        ({"grpc_timeout": b"1"}, b"200", Code.INTERNAL, b'malformed grpc-timeout: "1"'),
        ({"grpc_timeout": b"123456789S"}, b"200", Code.INTERNAL, b"malformed grpc-timeout"),
        ({"path": b"/a/None"}, b"200", Code.UNIMPLEMENTED, b"/a/None"),
        ({"x": b"a" * 17_000}, b"200", Code.RESOURCE_EXHAUSTED, b"the headers take 17"),
    ],
)
def test_heads_that_are_refused(head: dict[str, bytes], http: bytes, status: Code, text: bytes) -> None:
    async def main() -> None:
        peer = Peer()
        path = head.get("path", b"/a/Echo")
        block = peer.encoder.encode(fields(path, **{k: v for k, v in head.items() if k != "path"}), huffman=False)
        parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
        for number, part in enumerate(parts):
            flags = (f.END_HEADERS if part is parts[-1] else 0) | (0 if number else f.END_STREAM)
            peer.send(f.frame(f.CONTINUATION if number else f.HEADERS, flags, 1, part))
        answer = peer.answers[1]
        assert answer.head[b":status"] == http
        assert (answer.status, text in answer.text) == (status, True), answer
        assert peer.call(3).status == 0

    run(main)


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_kinds_of_content(kind: bytes) -> None:
    async def main() -> None:
        peer = Peer()
        peer.headers(1, fields(content_type=kind))
        peer.data(1, b"hi")
        assert peer.answers[1].status == 0

    run(main)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("plain text", b"plain text"),
        ("100%", b"100%25"),
        ("a\nb", b"a%0Ab"),
        ("é日", b"%C3%A9%E6%97%A5"),
        ("\x7f~", b"%7F~"),
    ],
)
def test_messages_of_statuses_are_percent_encoded(text: str, encoded: bytes) -> None:
    """PROTOCOL-HTTP2.md: Percent-Byte-Unencoded is %x20-24 / %x26-7E."""
    assert percent_encoded(text) == encoded


def test_a_bug_costs_one_call(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        peer = Peer()
        answer = peer.call(1, b"/a/Bug")
        assert (answer.status, answer.text) == (Code.INTERNAL, b"internal failure of the server")
        assert peer.call(3).status == 0

    run(main)
    assert "ZeroDivisionError" in caplog.text


def test_whoever_leaves_gives_up() -> None:
    async def main() -> None:
        peer = Peer()
        for stream in (1, 3, 5):
            peer.call(stream, b"/a/Wait")
        peer.send(f.reset(1, f.ErrorCode.CANCEL))
        assert peer.abandoned == peer.calls[:1]
        peer.calls[0].answer(b"late")
        peer.calls[1].answer(b"in time")
        await peer.turns()
        assert peer.answers[1].head == {}
        assert peer.answers[3].data[5:] == b"in time"
        peer.transport.close()
        await peer.turns()
        assert peer.abandoned == [peer.calls[0], peer.calls[2]]
        peer.calls[2].answer(b"late")

    run(main)


def test_answers_of_one_turn_are_one_write() -> None:
    async def main() -> None:
        peer = Peer()
        for stream in (1, 3, 5):
            peer.call(stream, b"/a/Wait")
        written: list[bytes] = []
        peer.transport.write = written.append  # type: ignore[method-assign]
        for call in peer.calls:
            call.answer(b"x")
        assert written == []
        await peer.turns()
        assert len(written) == 1
        assert written[0].count(b"grpc-status") == 3

    run(main)


def test_a_deadline_that_nobody_keeps() -> None:
    """The pool ends guests at their deadline; here nothing does, and the sweep answers."""

    async def main() -> None:
        peer = Peer()
        peer.call(1, b"/a/Wait", b"", (b"grpc-timeout", b"200m"))
        call = peer.calls[0]
        assert call.deadline_ns == call.began_ns + 200_000_000
        peer.connection.overdue(call.began_ns * 1e-9 + 0.3)
        assert peer.answers[1].head == {}
        peer.connection.overdue(call.began_ns * 1e-9 + 0.5)
        await peer.turns()
        assert peer.answers[1].status == Code.DEADLINE_EXCEEDED
        assert peer.abandoned == [call]

    run(main)


def test_a_stream_of_messages() -> None:
    async def main() -> None:
        peer = Peer()
        peer.headers(1, fields(b"/a/Each"))
        peer.send(f.frame(f.DATA, 0, 1, b"\0\0\0\0\1a\0\0\0\0\1"))
        answer = peer.answers[1]
        assert answer.data == b"\0\0\0\0\2aa"
        peer.send(f.frame(f.DATA, 0, 1, b"b"))
        assert answer.data == b"\0\0\0\0\2aa\0\0\0\0\2bb"
        assert not answer.ended
        peer.send(f.frame(f.DATA, f.END_STREAM, 1))
        assert (answer.status, answer.ended) == (0, True)
        peer.headers(3, fields(b"/a/Each"))
        peer.send(f.frame(f.DATA, 0, 3, b"\0\1\0\0\0"))
        assert peer.answers[3].status == Code.RESOURCE_EXHAUSTED
        # Whoever reads no answers is not given more of them.
        peer.send(f.settings([(f.INITIAL_WINDOW_SIZE, 0)]))
        peer.headers(5, fields(b"/a/Each"))
        for _ in range(40):
            peer.data(5, b"x" * 10_000, end=False)
        assert peer.answers[5].reset == 11
        assert peer.connection.unread() == 0

    run(main)


def test_details_are_in_base64_without_padding() -> None:
    async def main() -> None:
        from sandboxd.front.grpc.status import GrpcError

        peer = Peer()
        peer.call(1, b"/a/Wait")
        peer.calls[0].fail(GrpcError(Code.UNAVAILABLE, "é", reason="WHY", retry_after_s=3, traceparent="00-1"))
        await peer.turns()
        head = peer.answers[1].head
        assert (head[b"grpc-status"], head[b"grpc-message"], head[b"traceparent"]) == (b"14", b"%C3%A9", b"00-1")
        details = head[b"grpc-status-details-bin"]
        assert not details.endswith(b"=")
        packed: Any = base64.b64decode(details + b"=" * (-len(details) % 4))
        assert b"WHY" in packed
        assert b"google.rpc.RetryInfo" in packed

    run(main)


def test_time_is_of_the_monotonic_clock() -> None:
    async def main() -> None:
        peer = Peer()
        before = time.monotonic_ns()
        peer.call(1, b"/a/Wait")
        assert before <= peer.calls[0].began_ns <= time.monotonic_ns()

    run(main)

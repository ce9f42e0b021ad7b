"""The bounds of connections over gRPC: floods, slow callers, crowds, and the end of the server. Without sockets.

Not tested here: what a flood costs others (`tests/server/test_grpc_floods.py`).
"""

import time
from collections.abc import Callable

import pytest
from hpack import Encoder

from sandboxd.front.grpc import frames as f
from sandboxd.front.grpc import streams
from sandboxd.front.grpc.status import Code
from sandboxd.front.grpc.upkeep import IDLE_S, PING_S
from sandboxd.front.servers.refusals import Refusal
from tests.unit.grpc_peer import GRPC, Peer, run

ENHANCE_YOUR_CALM = 11
NOW = time.monotonic


def waiting(number: int) -> bytes:
    fields = [(name, b"/a/Wait" if name == b":path" else value) for name, value in GRPC]
    return f.frame(f.HEADERS, 4, number, Encoder().encode(fields)) + f.frame(f.DATA, 1, number, b"\0\0\0\0\0")


BLOCK = Encoder().encode(GRPC)
FLOODS: dict[str, Callable[[int], bytes]] = {
    "CVE-2019-9512, ping": lambda _: f.frame(f.PING, 0, 0, b"12345678"),
    "CVE-2019-9513, priority": lambda _: f.frame(f.PRIORITY, 0, 1, b"\0\0\0\3\1"),
    "CVE-2019-9514, reset by malformed heads": lambda n: f.frame(f.HEADERS, 5, 2 * n + 1, b"\x82"),
    "CVE-2019-9515, settings": lambda _: f.settings([(3, 1)]),
    "CVE-2019-9515, acknowledgements": lambda _: f.frame(f.SETTINGS, f.ACK, 0),
    "CVE-2019-9518, empty data": lambda _: f.frame(f.DATA, 0, 1),
    "CVE-2023-44487, rapid reset": lambda n: waiting(2 * n + 3) + f.reset(2 * n + 3, f.ErrorCode.CANCEL),
    "windows": lambda _: f.window_update(0, 1),
    "unknown": lambda _: f.frame(0xFE, 0, 0),
    "data of one byte": lambda _: f.frame(f.DATA, 0, 1, b"\0"),
    "one padded byte": lambda _: f.frame(f.DATA, f.PADDED, 1, b"\1\0\0"),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_its_connection(kind: str) -> None:
    async def main() -> None:
        peer = Peer()
        if "reset by" not in kind:
            peer.headers(1)
        number = 0
        while not peer.transport.closing:
            peer.send(FLOODS[kind](number))
            number += 1
            assert number <= 5000
        assert number >= 90, "an honest caller may do a little of it"
        assert peer.goaway == ENHANCE_YOUR_CALM
        assert peer.turned_away("flood") == 1
        assert len(peer.abandoned) == len(peer.calls)
        other = Peer()
        assert other.call(1).status == 0

    run(main)


@pytest.mark.parametrize("piece", [b"", b"\x82", b"\x00\x01x\x01y"])
def test_a_block_without_end_is_ended(piece: bytes) -> None:
    """CVE-2024-27316 and its kind."""

    async def main() -> None:
        peer = Peer()
        peer.send(f.frame(f.HEADERS, 0, 1, BLOCK))
        count = 0
        while not peer.transport.closing:
            peer.send(f.frame(f.CONTINUATION, 0, 1, piece * 1000))
            count += 1
            assert count < 1100
        assert peer.goaway == ENHANCE_YOUR_CALM

    run(main)


def test_a_small_block_of_large_fields_is_not_unfolded() -> None:
    """RFC 7541, 7.3: an entry of the table, 4 KB long, and a block of one byte for each use of it."""

    async def main() -> None:
        peer = Peer()
        encoder = Encoder()
        peer.send(f.frame(f.HEADERS, 5, 1, encoder.encode([*GRPC, (b"x", b"a" * 3000)])))
        peer.send(f.frame(f.HEADERS, 5, 3, b"\xbe" * 16_000))
        assert peer.goaway == ENHANCE_YOUR_CALM

    run(main)


def test_calls_earn_what_their_frames_cost() -> None:
    """So does the patience of whoever cancels a call that took long, or whose own deadline has passed."""

    async def main() -> None:
        peer = Peer()
        for number in range(2000):
            stream = 2 * number + 1
            peer.send(f.frame(f.HEADERS, 4, stream, BLOCK) + f.frame(f.DATA, 1, stream, b"\0\0\0\0\0"))
            peer.send(f.window_update(0, 5) + f.frame(f.PING, 0, 0, b"12345678"))
        assert peer.goaway is None
        peer = Peer()
        for number in range(600):
            stream = 2 * number + 1
            peer.call(stream, b"/a/Wait", b"", (b"grpc-timeout", b"1n"))
            peer.send(f.reset(stream, f.ErrorCode.CANCEL))
        assert peer.goaway is None
        assert len(peer.abandoned) == 600

    run(main)


def test_much_at_once_is_handled_in_turns() -> None:
    async def main() -> None:
        peer = Peer()
        peer.send(f.frame(f.PING, 0, 0, b"12345678") * 500)
        assert len([frame for frame in peer.frames if frame.kind == f.PING]) == 64
        assert not peer.transport.reading
        await peer.turns(10)
        assert len([frame for frame in peer.frames if frame.kind == f.PING]) == 500
        assert peer.transport.reading

    run(main)


def overdue(peer: Peer, seconds: float) -> Refusal | None:
    found = peer.connection.overdue(NOW() + seconds)
    peer.connection.out.flush()
    peer.read()
    return found


def test_heads_that_do_not_come() -> None:
    async def main() -> None:
        silent = Peer(greets=False)
        assert overdue(silent, 11) is None
        assert silent.transport.closing
        for sent in (f.PREFACE[:5], f.PREFACE):
            peer = Peer(greets=False)
            peer.send(sent)
            assert overdue(peer, 9) is None
            assert overdue(peer, 11) is Refusal.HEAD_TIMEOUT
        peer = Peer()
        peer.send(f.frame(f.HEADERS, 0, 1, BLOCK))
        assert overdue(peer, 11) is Refusal.HEAD_TIMEOUT
        peer = Peer()
        peer.send(b"\0\0")
        assert overdue(peer, 29) is None
        assert overdue(peer, 31) is Refusal.BODY_TIMEOUT

    run(main)


def test_messages_that_do_not_come() -> None:
    async def main() -> None:
        peer = Peer()
        peer.headers(1)
        peer.send(f.frame(f.DATA, 0, 1, b"\0\0\0\1\0" + b"x" * 100))
        peer.headers(3)
        assert overdue(peer, 29) is None
        assert 1 not in peer.answers
        # A pause of thirty seconds; or by then, less than a kibibyte a second.
        assert overdue(peer, 31) is None
        for stream in (1, 3):
            answer = peer.answers[stream]
            assert (answer.status, answer.text) == (
                Code.DEADLINE_EXCEEDED, b"the request's message did not come in time",
            )  # fmt: skip
        assert peer.turned_away("body_timeout") == 2
        # What still comes is dropped, for a while.
        peer.send(f.frame(f.DATA, 0, 1, b"x"))
        assert peer.answers[1].reset is None
        assert overdue(peer, 62) is None
        assert peer.answers[3].reset == 0
        assert peer.connection.calls == {}

    run(main)


def test_a_message_that_drips_is_not_waited_for() -> None:
    async def main() -> None:
        peer = Peer()
        peer.headers(1)
        peer.send(f.frame(f.DATA, 0, 1, b"\0\0\0\xff\0" + b"x" * 4000))
        call = peer.connection.calls[1]
        call.moved_ns += 34_000_000_000
        assert overdue(peer, 33) is None
        assert 1 not in peer.answers, "4000 bytes are the pace of three seconds after the first thirty"
        assert overdue(peer, 35) is None
        assert peer.answers[1].status == Code.DEADLINE_EXCEEDED

    run(main)


def test_answers_that_are_not_read() -> None:
    async def main() -> None:
        peer = Peer()
        peer.call(1, b"/a/Big", b"200000")
        peer.call(3, b"/a/Wait")
        assert overdue(peer, 29) is None
        assert peer.answers[1].reset is None
        assert overdue(peer, 31) is None
        assert peer.answers[1].reset == 8
        assert peer.turned_away("send_timeout") == 1
        assert peer.connection.unread() == 0
        assert not peer.abandoned

    run(main)


def test_one_connection_does_not_hold_more_than_all_may() -> None:
    async def main() -> None:
        peer = Peer(max_unread_bytes=1_000_000)
        assert peer.call(1, b"/a/Big", b"2000000").head, "one answer may be as long"
        answer = peer.call(3, b"/a/Big", b"2000000")
        assert (answer.status, answer.text) == (
            Code.RESOURCE_EXHAUSTED, b"too many responses wait for callers to read them",
        )  # fmt: skip
        assert peer.turned_away("unread") == 1

    run(main)


def test_who_reads_nothing_is_not_read_either() -> None:
    async def main() -> None:
        peer = Peer()
        peer.send(f.window_update(0, 1 << 30) + f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 30)]))
        peer.transport.slow = True
        peer.read = lambda: None  # type: ignore[method-assign]
        peer.call(1, b"/a/Big", b"1000000")
        assert not peer.transport.reading
        assert len(peer.transport.written) < 200_000, "the rest is not copied there"
        assert peer.connection.unread() > 1_000_000
        peer.transport.slow = False
        peer.connection.resume_writing()
        assert peer.transport.reading
        await peer.turns()
        assert len(peer.transport.written) > 1_000_000
        assert peer.connection.unread() == 0

    run(main)


def test_messages_that_are_not_whole_are_bounded_on_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "UNFINISHED_BYTES", 8 << 20)

    async def main() -> None:
        peer = Peer(max_message_bytes=1 << 20)
        peer.send(f.window_update(0, 1 << 30) + f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 30)]))
        begun = b"\0" + (1 << 20).to_bytes(4, "big") + b"x" * (1 << 20)
        refused = 0
        for stream in range(1, 41, 2):
            peer.headers(stream)
            for at in range(0, 1 << 20, 16384):
                peer.send(f.frame(f.DATA, 0, stream, begun[at : at + 16384]))
            if stream in peer.answers and peer.answers[stream].head:
                assert peer.answers[stream].status == Code.RESOURCE_EXHAUSTED
                assert b"unfinished messages" in peer.answers[stream].text
                refused += 1
        held = [call.body.received for call in peer.connection.calls.values() if call.body is not None]
        assert refused
        assert sum(held) <= (8 + 2) << 20, "what was allowed, and what is granted between two looks"
        peer.send(f.frame(f.DATA, f.END_STREAM, 1, begun[1 << 20 :]))
        assert peer.answers[1].status == Code.OK
        assert len(peer.answers[1].data) == len(begun)

    run(main)


def test_who_breaks_a_rule_and_reads_nothing_is_cut_off() -> None:
    async def main() -> None:
        peer = Peer(max_connections=1)
        peer.send(f.window_update(0, 1 << 30) + f.settings([(f.INITIAL_WINDOW_SIZE, 1 << 30)]))
        peer.call(1, b"/a/Wait")
        peer.transport.slow = True
        peer.read = lambda: None  # type: ignore[method-assign]
        peer.call(3, b"/a/Big", b"60000")
        peer.send(f.frame(f.PING, 0, 0, b"short"))
        assert peer.transport.closing
        assert len(peer.abandoned) == 1, "nobody will hear of it"
        assert peer.connection.unread() > 60_000
        assert peer.connection.idle_since() is None, "closing it again makes no room"
        table = peer.server.table
        table.sweep()
        assert not peer.transport.aborted
        later = NOW() + 60
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "monotonic", lambda: later)
            table.sweep()
        assert peer.transport.aborted
        assert peer.turned_away("send_timeout") == 1
        await peer.turns()

    run(main)


def test_silence_is_asked_about_and_idleness_ended() -> None:
    async def main() -> None:
        peer = Peer()
        peer.call(1, b"/a/Wait")
        assert overdue(peer, PING_S + 1) is None
        ping = peer.frames[-1]
        assert (ping.kind, ping.flags) == (f.PING, 0)
        peer.send(f.frame(f.PING, f.ACK, 0, ping.payload))
        peer.connection.heard = NOW() + PING_S + 2
        assert overdue(peer, 2 * PING_S) is None
        assert overdue(peer, 2 * PING_S + 10) is None
        assert not peer.transport.closing
        assert overdue(peer, 2 * PING_S + 40) is None
        assert overdue(peer, 3 * PING_S + 40) is None
        assert peer.transport.aborted

        peer = Peer()
        peer.call(1)
        peer.connection.heard = NOW() + IDLE_S
        assert overdue(peer, IDLE_S - 1) is None
        assert not peer.transport.closing
        assert overdue(peer, IDLE_S + 1) is None
        assert (peer.goaway, peer.transport.closing) == (0, True)

    run(main)


def test_a_crowd() -> None:
    """The connection that was idle for longest makes room; where none is idle, the new one gets nothing but probes."""

    async def main() -> None:
        peer = Peer(max_connections=2)
        peer.call(1)
        idle = peer.transport
        peer.connect()
        peer.call(1, b"/a/Wait")
        peer.connect()
        assert idle.closing
        peer.call(1, b"/a/Wait")
        peer.connect()
        refused = peer.call(1)
        assert (refused.status, refused.text) == (Code.UNAVAILABLE, b"there are too many connections")
        peer.headers(3, [(name, b"/a/Each" if name == b":path" else value) for name, value in GRPC])
        peer.data(3, b"x")
        assert peer.answers[3].data[5:] == b"xx"
        assert peer.turned_away("connections") == 2
        # Of one address, too.
        peer = Peer(max_per_peer=1)
        first = peer.transport
        peer.connect()
        assert first.closing

    run(main)


def test_the_end_in_two_steps() -> None:
    """RFC 9113, 6.8: calls that were on their way when the caller heard of it are answered."""

    async def main() -> None:
        peer = Peer()
        peer.call(1, b"/a/Wait")
        peer.server.draining = True
        peer.connection.leave()
        await peer.turns()
        goaway, ping = peer.frames[-2:]
        assert goaway.payload == b"\x7f\xff\xff\xff\0\0\0\0"
        assert ping.kind == f.PING
        assert peer.call(3).status == 0
        peer.send(f.frame(f.PING, f.ACK, 0, ping.payload))
        assert peer.frames[-1].payload == b"\0\0\0\3\0\0\0\0"
        peer.headers(5)
        assert peer.answers[5].reset == 7
        assert not peer.transport.closing
        peer.calls[0].answer(b"at last")
        await peer.turns()
        assert peer.answers[1].data[5:] == b"at last"
        assert peer.transport.closing
        idle = Peer()
        idle.server.draining = True
        idle.connection.leave_now()
        assert (idle.transport.closing, idle.goaway) == (True, None)
        idle.read()
        assert idle.goaway == 0

    run(main)

"""The flow between a caller and a worker (credit, backpressure, order, ends), and the order of sending ahead."""

import asyncio
from typing import Any

import pytest

from sandboxd.pool.invocation import Invocation
from sandboxd.pool.stream import HIGH_BYTES, PIECE_BYTES, Stream
from sandboxd.pool.waiting import WaitingQueue
from sandboxd.wire import messages as m

HEAD = m.ResponseHead(7, 200, ())


class Carrier:
    """Writes down what a worker would be told."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.paused = False

    def write(self, message: m.Message) -> None:
        self.written.append(message)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


class Nobody:
    """A pool that is told of nothing."""

    def abandon(self, invocation: Invocation) -> None:
        raise AssertionError("nothing is abandoned")


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(work: Any) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def test_nothing_is_sent_without_credit_and_never_more() -> None:
    async def work() -> None:
        stream, carrier = Stream(body_follows=True), Carrier()
        sending = asyncio.create_task(stream.send(bytes(PIECE_BYTES + 10), last=True))
        await settle()
        assert carrier.written == []
        assert stream.take(carrier, m.RequestCredit(7, PIECE_BYTES + 5)) == ""
        await settle()
        assert [(len(b.data), b.last) for b in carrier.written] == [(PIECE_BYTES, False), (5, False)]
        stream.take(carrier, m.RequestCredit(7, 100))
        await sending
        assert [(b.id, len(b.data), b.last) for b in carrier.written[2:]] == [(7, 5, True)]

    run(work())


def test_an_end_without_bytes_waits_for_the_beginning() -> None:
    async def work() -> None:
        stream, carrier = Stream(body_follows=True), Carrier()
        sending = asyncio.create_task(stream.send(b"", last=True))
        await settle()
        assert not sending.done()
        stream.take(carrier, m.RequestCredit(7, 1))
        await sending
        assert carrier.written == [m.RequestBody(7, b"", True)]

    run(work())


def test_senders_and_receivers_are_let_go_at_the_end() -> None:
    async def work() -> None:
        stream, carrier = Stream(body_follows=True), Carrier()
        stream.take(carrier, HEAD)
        stream.take(carrier, m.ResponseBody(7, b"x"))
        sending = asyncio.create_task(stream.send(b"y", last=False))
        await settle()
        stream.close()
        await sending
        assert [await stream.receive() for _ in range(3)] == [HEAD, b"x", None]
        assert stream.take(carrier, m.ResponseBody(7, b"late")) == ""
        assert await stream.receive() is None

    run(work())


def test_a_worker_is_not_read_while_too_much_waits() -> None:
    async def work() -> None:
        stream, carrier = Stream(body_follows=False), Carrier()
        stream.take(carrier, HEAD)
        assert not carrier.paused
        pieces = 0
        while not carrier.paused:
            stream.take(carrier, m.ResponseBody(7, bytes(PIECE_BYTES)))
            pieces += 1
            assert pieces <= HIGH_BYTES // PIECE_BYTES + 1
        await stream.receive()
        while carrier.paused:
            await stream.receive()
            pieces -= 1
        assert pieces >= 0
        while not carrier.paused:  # one byte at a time costs more than its bytes
            stream.take(carrier, m.ResponseBody(7, b"x"))
            pieces += 1
            assert pieces < 10_000
        stream.close()
        assert not carrier.paused

    run(work())


@pytest.mark.parametrize(
    ("before", "message", "wrong"),
    [
        ([], m.ResponseBody(7, b"x"), "sent a body without a head"),
        ([HEAD], HEAD, "sent a second head"),
        ([], m.RequestCredit(7, 0), "gave credit that the protocol does not allow"),
        ([], m.RequestCredit(7, -1), "gave credit that the protocol does not allow"),
        ([m.RequestCredit(7, m.WINDOW_BYTES)], m.RequestCredit(7, 1), "gave credit that the protocol does not allow"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_told_apart(before: list[Any], message: Any, wrong: str) -> None:
    async def work() -> None:
        stream, carrier = Stream(body_follows=True), Carrier()
        assert [stream.take(carrier, earlier) for earlier in before] == [""] * len(before)
        assert stream.take(carrier, message) == wrong

    run(work())


def test_credit_for_a_body_that_does_not_follow() -> None:
    async def work() -> None:
        assert (
            Stream(body_follows=False).take(Carrier(), m.RequestCredit(7, 1))
            == "gave credit that the protocol does not allow"
        )

    run(work())


def test_what_was_put_off_is_next() -> None:
    async def work() -> None:
        queue = WaitingQueue(10)

        def waiting(id: int, binding: str) -> Invocation:
            one = Invocation(id, binding, m.Call(deadline_ns=0), lambda _: None, 0, Nobody())
            queue.append(one)
            return one

        first, _, second = waiting(1, "a"), waiting(2, "b"), waiting(3, "a")
        assert queue.take(lambda _: True) is first
        queue.defer(first)
        assert len(queue) == 3
        assert [queue.take(lambda _: True) for _ in range(3)] == [first, _, second]

    run(work())

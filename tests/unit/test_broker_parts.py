"""The parts of the egress broker between the processes: what an end does while the other is slow, gone, or short of
descriptors. The pages on unix(7) and recvmsg(2) say what a kernel does with descriptors."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import msgspec
import pytest

from hostfuncs.outbound import network
from sandboxd.broker import messages as b
from sandboxd.broker.dialer import BrokerDialer
from sandboxd.broker.frames import RECEIVE_BYTES, FrameStream
from sandboxd.wire import codec


@contextlib.contextmanager
def packets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A worker's socket pair."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@contextlib.contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Every new descriptor fails with EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    filled = [os.dup(0)]
    while filled[-1] < highest:
        filled.append(os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(filled) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filled:
            os.close(descriptor)


def test_the_end_of_a_broker_that_nobody_waited_for_fails_no_later_request() -> None:
    async def main() -> None:
        with packets() as (ours, theirs), socket.socket() as connected:
            dialer = BrokerDialer()
            dialer.connect(ours)
            theirs.send(msgspec.msgpack.encode(b.Lost()))
            theirs.send(msgspec.msgpack.encode(b.Failed(7, b.Failure.UNRESOLVED)))
            dialling = asyncio.create_task(dialer.dial("http", "one.test", 80, lambda _phase: None))
            async with asyncio.timeout(20):
                asked = msgspec.msgpack.decode(await asyncio.to_thread(theirs.recv, 1024), type=b.Dial)
                socket.send_fds(theirs, [msgspec.msgpack.encode(b.Dialled(asked.id))], [connected.fileno()])
                (await dialling).close()

    asyncio.run(main())


class End:
    """One end of a stream, with what it received."""

    def __init__(self, sock: socket.socket, kind: object) -> None:
        self.messages: list[tuple[object, int | None]] = []
        self.gone = asyncio.Event()
        self.came = asyncio.Event()
        self.stream = FrameStream(sock, kind, self.received, self.gone.set, descriptors=True)

    def received(self, message: object) -> None:
        self.messages.append((message, self.stream.descriptor() if isinstance(message, b.Attach) else None))
        self.came.set()


@pytest.mark.parametrize("short", range(-2, 12))
def test_descriptors_stay_with_their_message_wherever_a_read_ends(short: int) -> None:
    """A read that ends within the message brings the descriptor before the message is whole."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            # Read at once with what follows: a frame that leaves room for the beginning of the next one only.
            empty = len(codec.encode(b.BindingAnswer(1, "x" * 40_000))) - 40_000
            filler = codec.encode(b.BindingAnswer(1, "x" * (RECEIVE_BYTES - empty - short)))
            frames = [codec.encode(b.Attach(number, 1, 0)) for number in (1, 2)]
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            ours.sendall(filler)
            files = [os.memfd_create(f"of worker {number}") for number in (1, 2)]
            for frame, file in zip(frames, files, strict=True):
                socket.send_fds(ours, [frame], [file])
            end = End(theirs, b.ToBroker)
            async with asyncio.timeout(20):
                while len(end.messages) < 3:
                    end.came.clear()
                    await end.came.wait()
            found = [descriptor for message, descriptor in end.messages if isinstance(message, b.Attach)]
            assert None not in found
            names = [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in found]
            assert [name.split()[2] for name in names] == ["1", "2"]
            for descriptor in [*files, *(d for d in found if d is not None)]:
                os.close(descriptor)
            end.stream.close()

    asyncio.run(main())


def test_a_receiver_without_descriptors_knows_which_message_lacks_one() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            end = End(theirs, b.ToBroker)
            for number in (1, 2):
                with no_free_descriptor() if number == 1 else contextlib.nullcontext():
                    end.came.clear()
                    socket.send_fds(ours, [codec.encode(b.Attach(number, 1, 0))], [0])
                    async with asyncio.timeout(20):
                        await end.came.wait()
            (_, none), (_, one) = end.messages
            assert none is None
            assert one is not None
            os.close(one)
            end.stream.close()

    asyncio.run(main())


def test_a_sender_without_descriptors_counts_as_lost_and_raises_nothing() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            end = End(ours, b.FromBroker)
            while not end.stream._unsent:
                end.stream.send(b.BindingAnswer(1, "x" * 100_000))
            with no_free_descriptor():
                end.stream.send(b.Attach(1, 1, 0), [0])
                async with asyncio.timeout(20):
                    await end.gone.wait()

    asyncio.run(main())


def test_few_addresses_are_tried_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """An origin's DNS says how many there are."""
    begun: list[object] = []
    enough = asyncio.Event()

    async def silent(_loop: object, address: object, _port: int) -> socket.socket:
        begun.append(address)
        if len(begun) == network.ATTEMPTS_AT_ONCE:
            enough.set()
        await asyncio.Event().wait()
        raise AssertionError("nothing sets it")

    async def main() -> None:
        monkeypatch.setattr(network, "_connect_one", silent)
        monkeypatch.setattr(network, "ATTEMPT_DELAY_S", 0.0)
        addresses = network.parse_addresses(f"192.0.2.{number}" for number in range(1, 100))
        connecting = asyncio.create_task(network.open_socket(addresses, 80))
        async with asyncio.timeout(20):
            await enough.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(begun) == network.ATTEMPTS_AT_ONCE
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    asyncio.run(main())

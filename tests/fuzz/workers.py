"""Messages of a worker that was taken over: results to the front, and packets to the egress broker.

Neither may fail in any way of its own: a result is found honest or is named a lie, and a packet is answered, or its
sender is hung up on and named.
"""

import asyncio
import socket

import msgspec

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from sandboxd.broker import messages as b
    from sandboxd.broker.service import Front, Service
    from sandboxd.limits import Limits, OutboundSettings
    from sandboxd.outcome import Outcome
    from sandboxd.pool import faults
    from sandboxd.wire import codec
    from sandboxd.wire import messages as m

LIMITS = Limits()
RULES = frozenset(("", "default"))
LEARNED = b.Learn(
    generation=1,
    outbound=OutboundSettings(),
    policies=(b.BindingPolicy(binding="one", allowed_outbound_hosts=(), own_ports=()),),
)


def _packets(*messages: m.Message) -> bytes:
    parts = [msgspec.msgpack.encode(message) for message in messages]
    return b"\x00" + b"".join(len(part).to_bytes(2, "big") + part for part in parts)


SEEDS = (
    _packets(b.Dial(1, 7, "http", "example.org", 80), b.Cancel(1)),
    _packets(b.Dial(1, 7, "https", "::1", 443), b.Dial(1, 7, "", "proxy", 3128)),
    _packets(b.Dial(2, 8, "ftp", "169.254.169.254", 1)),
    b"\x01" + codec.encode(m.Result(id=1, outcome=Outcome.COMPLETED, stdout=b"x")),
    b"\x01" + codec.encode(m.Result(id=1, outcome=Outcome.COMPLETED, http=m.HttpResponse(status=200), limit="timeout")),
    b"\x01"
    + codec.encode(
        m.Result(
            id=1, outcome=Outcome.TRAPPED, detail="t", outbound=(m.OutboundUsage(rule="", outcome="ok", duration_ns=1),)
        )
    ),
)


class Accuser(Front):
    """Says of every invocation with an even number that it runs for the binding `one`, and notes who is accused."""

    def __init__(self) -> None:
        self.accused: list[str] = []
        self.service: Service | None = None

    def ask(self, question: int, serial: int, invocation: int) -> None:
        assert self.service is not None
        assert serial == 5
        self.service.told(b.BindingAnswer(question, "" if invocation % 2 else "one"))

    def report_fault(self, serial: int, what: str) -> None:
        self.accused.append(what)


async def _serve(data: bytes) -> None:
    front = Accuser()
    service = front.service = Service(front)
    service.learn(LEARNED)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    with theirs:
        theirs.setblocking(False)
        service.attach(5, 1, 0, ours)
        while len(data) > 2 and service.workers:
            size = int.from_bytes(data[:2], "big")
            packet, data = data[2 : 2 + size], data[2 + size :]
            if packet:
                theirs.send(packet)
            for _ in range(4):
                await asyncio.sleep(0)
        for _ in range(8):
            await asyncio.sleep(0)
        for worker in list(service.workers):
            worker.close()
        await asyncio.sleep(0)
        while answer := theirs.recv(4096):
            # Nobody may be called, so nothing is ever connected to.
            message = msgspec.msgpack.decode(answer, type=b.ToWorker)
            assert isinstance(message, b.Failed)
            assert message.why in (b.Failure.DENIED, b.Failure.NOT_RUNNING)
    assert len(front.accused) <= 1
    assert failures == []


def target(data: bytes) -> None:
    """One worker's life at the broker, or some of its results."""
    if data[:1] == b"\x00":
        asyncio.run(_serve(data[1:]))
        return
    try:
        messages = codec.Decoder(codec.FromWorker).feed(data[1:])
    except codec.ProtocolError:
        return
    for message in messages:
        if isinstance(message, m.Result):
            for streams in (False, True):
                assert isinstance(faults.of_result(message, LIMITS, RULES, 10**9, streams=streams), str)


if __name__ == "__main__":
    fuzz(target)

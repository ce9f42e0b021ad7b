"""Plain requests on uvicorn: the connections whose bodies are late, and answers that cannot be sent."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from sandboxd.components.binding import Binding
from sandboxd.front.answering.load_shedding import Turn
from sandboxd.front.http.direct import DirectExchange, Plain
from sandboxd.front.http.replies import Reply
from sandboxd.front.ports import Served
from sandboxd.front.servers.uvicorn_cycle import CountingFlow
from sandboxd.front.servers.uvicorn_direct import Awaited, DirectCycle
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Result
from tests.unit.test_uvicorn_cycle import Transport


class Connection:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.flow = CountingFlow(self.transport, lambda: None)
        self.server_state: Any = self
        self.default_headers = [(b"date", b"now")]
        self.completed = 0
        self.fallen_back = asyncio.Event()

    def on_response_complete(self) -> None:
        self.completed += 1

    def fall_back(self) -> None:
        self.fallen_back.set()


class Endpoint:
    """Answers at once: with the reply, or as if the guest had ended well."""

    def __init__(self, reply: Reply | None) -> None:
        self.reply = reply
        self.room = True
        self.turns: list[Turn] = []
        self.gone = 0

    def has_room(self, _name: str) -> bool:
        return self.room

    def plain_in_any_case(self, _body: bytes) -> bool:
        return True

    def line_up(self, _plain: Plain, turn: Turn) -> None:
        self.turns.append(turn)

    def left(self, _plain: Plain, _began_ns: int) -> None:
        self.gone += 1

    def begin(self, plain: Plain, _body: bytes, began_ns: int, reply: Any) -> DirectExchange:
        exchange = DirectExchange.of(plain, began_ns, reply)
        if self.reply is None:
            exchange.receive(Result(id=1, outcome=Outcome.COMPLETED))
        else:
            reply(self.reply)
        return exchange


def test_late_bodies_are_left_to_asgi_and_others_are_not() -> None:
    async def main() -> tuple[bool, str]:
        awaited, late, whole, later = Awaited(), Connection(), Connection(), Connection()
        awaited.add(late)
        awaited.add(whole)
        awaited.discard(whole)
        await asyncio.wait_for(late.fallen_back.wait(), 60)
        awaited.add(later)
        await asyncio.wait_for(later.fallen_back.wait(), 60)
        return whole.fallen_back.is_set(), repr(awaited)

    assert asyncio.run(main()) == (False, "<Awaited 0>")


def answered(reply: Reply | None, *, kind: str = "", keep_alive: bool = True) -> tuple[list[bytes], bool, int]:
    async def main() -> tuple[list[bytes], bool, int]:
        connection = Connection()
        binding = Binding(name="a", version="v1", url="file:///a.wasm", content_type=kind)
        served = Served.of(binding, Metrics(version="0").binding("a"))
        endpoint: Any = Endpoint(reply)
        cycle = DirectCycle(connection, endpoint, (served, None), keep_alive=keep_alive)
        assert repr(cycle) == "<DirectCycle reading>"
        assert cycle.begin()
        assert repr(cycle) == "<DirectCycle complete>"
        return connection.transport.writes, connection.transport.closed, connection.completed

    return asyncio.run(main())


def test_an_answer_is_one_write() -> None:
    head = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 1\r\n"
    assert answered((200, [(b"Content-Length", b"1")], b"x")) == ([head + b"\r\nx"], False, 1)
    last = answered((200, [(b"content-length", b"1")], b"x"), keep_alive=False)
    assert last == ([head + b"connection: close\r\n\r\nx"], True, 1)
    asked = answered((408, [(b"connection", b"close")], b""))
    assert asked == ([b"HTTP/1.1 408 Request Timeout\r\ndate: now\r\nconnection: close\r\n\r\n"], True, 1)


def test_an_answer_that_cannot_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    """As `Cycle` answers for an application that raises."""
    writes, closed, completed = answered(None, kind="a\r\nb: c")
    assert writes[0].startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert writes[0].endswith(b"\r\n\r\ninternal failure of the server\n")
    assert (len(writes), closed, completed) == (1, True, 1)
    assert "a request could not be answered" in caplog.text


def test_whoever_leaves_at_the_gate_is_counted_and_needs_no_decision() -> None:
    async def main() -> tuple[int, int, list[bytes]]:
        connection, endpoint = Connection(), Endpoint((200, [], b"x"))
        endpoint.room = False
        served = Served.of(Binding(name="a", version="v1", url="file:///a.wasm"), Metrics(version="1").binding("a"))
        stays, leaves = (
            DirectCycle(connection, endpoint, (served, None), keep_alive=True)  # type: ignore[arg-type]  # stand-ins
            for _ in range(2)
        )
        assert stays.begin()
        assert leaves.begin()
        assert [turn.done() for turn in endpoint.turns] == [False, False]
        leaves.disconnected = True
        leaves.lost()
        assert [turn.done() for turn in endpoint.turns] == [False, True]
        for turn in endpoint.turns:
            turn.set_result(None)
        return endpoint.gone, connection.completed, connection.transport.writes

    gone, completed, writes = asyncio.run(main())
    assert (gone, completed) == (1, 1)
    assert len(writes) == 1

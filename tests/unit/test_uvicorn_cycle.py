"""uvicorn's requests as they are answered here: in one write, checked as by uvicorn, and told of callers who leave."""

import asyncio
import logging
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from sandboxd.front.servers.disconnects import Disconnects
from sandboxd.front.servers.uvicorn_cycle import CountingFlow, Cycle

JSON = (b"content-type", b"application/json")


class Transport(asyncio.Transport):
    """Remembers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def answered(
    kind: type[RequestResponseCycle],
    messages: list[dict[str, Any]],
    *,
    method: str = "POST",
    keep_alive: bool = True,
    version: str = "1.1",
) -> tuple[list[bytes], bool, str]:
    """Return what a cycle writes, whether it closes the connection, and the error that it raises."""

    async def main() -> tuple[list[bytes], bool, str]:
        transport = Transport()
        log = logging.getLogger("test")
        cycle = kind(
            scope={"type": "http", "method": method, "http_version": version},  # type: ignore[typeddict-item]
            transport=transport,
            flow=CountingFlow(transport, lambda: None),
            logger=log,
            access_logger=log,
            access_log=False,
            default_headers=[(b"date", b"now")],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=keep_alive,
            on_response=lambda: None,
        )
        error = ""
        try:
            for message in messages:
                await cycle.send(message)  # type: ignore[arg-type]
        except RuntimeError as raised:
            error = str(raised)
        return transport.writes, transport.closed, error

    return asyncio.run(main())


def start(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


LENGTH = (b"Content-Length", b"5")


@pytest.mark.parametrize(
    "messages",
    [
        [start(JSON, LENGTH), body(b"hello")],
        [start(JSON, LENGTH), body(b"hel", more=True), body(b"lo")],
        [start(JSON), body(b"hel", more=True), body(b"", more=True), body(b"lo")],
        [start((b"transfer-encoding", b"chunked")), body(b"")],
        [start((b"connection", b"keep-alive, Close"), LENGTH), body(b"hello")],
        [start(status=204), body(b"")],
        [start(LENGTH), body(b"too long")],
        [start(LENGTH), body(b"hey")],
        [start((b"x-a", b"1\r\nx-b: 2"))],
        [start((b"x a", b"1"))],
        [start((b"x-a\r\nx-b", b"1"))],
        [body(b"")],
        [start(LENGTH), start(LENGTH)],
        [start(LENGTH), body(b"hello"), body(b"")],
    ],
)
@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_same_bytes_and_refusals_as_uvicorn(messages: list[dict[str, Any]], method: str, keep_alive: bool) -> None:
    theirs = answered(RequestResponseCycle, messages, method=method, keep_alive=keep_alive)
    ours = answered(Cycle, messages, method=method, keep_alive=keep_alive)
    assert ours[1:] == theirs[1:]
    if not theirs[2]:
        assert b"".join(ours[0]) == b"".join(theirs[0])
    else:
        # uvicorn has sent the head by the time it refuses the body; here nothing of the answer is out.
        assert b"".join(theirs[0]).startswith(b"".join(ours[0]))


def test_an_answer_of_known_length_is_one_write() -> None:
    writes, _, _ = answered(Cycle, [start(JSON, LENGTH), body(b"hello")])
    assert writes == [
        b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\nhello"
    ]


def test_the_head_of_a_streamed_answer_goes_at_once() -> None:
    writes, _, _ = answered(Cycle, [start(JSON)])
    assert writes[0].endswith(b"transfer-encoding: chunked\r\n\r\n")


def test_a_server_that_tells_cancels_at_once_and_only_while_inside() -> None:
    async def main() -> tuple[bool, list[bool]]:
        told: list[Any] = []
        disconnects = Disconnects()

        async def never() -> dict[str, Any]:
            raise AssertionError("receive is not asked where the server tells")

        async def request() -> bool:
            presence = disconnects.enter(never, told.append)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                presence.task.uncancel()
            finally:
                disconnects.leave(presence)
            return presence.gone

        task = asyncio.create_task(request())
        await asyncio.sleep(0)
        told[0]()
        return await task, [call is None for call in told]

    assert asyncio.run(main()) == (True, [False, True])


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([start(JSON, LENGTH), body(b"hello")], True),
        ([start(status=204), body(b"")], True),
        ([start(JSON), body(b"hello")], False),
        ([start((b"connection", b"close"), LENGTH), body(b"hello")], False),
    ],
)
def test_http_1_0_is_told_that_it_is_kept_open(messages: list[dict[str, Any]], kept: bool) -> None:
    """RFC 9112, C.2.2; and only an answer with a length lets the next one be found."""
    writes, closed, error = answered(Cycle, messages, version="1.0")
    assert (closed, error) == (not kept, "")
    assert (b"connection: keep-alive\r\n" in b"".join(writes)) == kept
    assert (b"connection: close\r\n" in b"".join(writes)) != kept


@pytest.mark.parametrize("keep_alive", [True, False])
def test_http_1_0_gets_no_chunks(keep_alive: bool) -> None:
    """RFC 9112, 6.1: a caller of HTTP/1.0 would take them for the body. Its end is that of the connection (6.3)."""
    messages = [start(JSON), body(b"hel", more=True), body(b"", more=True), body(b"lo")]
    writes, closed, error = answered(Cycle, messages, keep_alive=keep_alive, version="1.0")
    head, _, rest = b"".join(writes).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert (rest, closed, error) == (b"hello", True, "")
    assert writes[0] == head + b"\r\n\r\n"

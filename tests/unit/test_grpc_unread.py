"""Responses over gRPC that nobody reads: who is cut off for whom."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

grpc_server = pytest.importorskip("sandboxd.front.grpc.server")

from sandboxd.front.grpc.status import GrpcError  # noqa: E402 - where grpcio is installed
from sandboxd.front.servers.connections import CallerLimits  # noqa: E402
from sandboxd.metrics import Metrics  # noqa: E402

MIB = 1 << 20


class Context:
    """A call whose response nobody reads until its task ends."""

    def __init__(self) -> None:
        self.done: list[Callable[[object], None]] = []

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self.done.append(callback)


async def call(unread: Any, size: int) -> None:
    context = Context()
    try:
        unread.watch(size, cast(Any, context))
        await asyncio.Event().wait()
    finally:
        for callback in context.done:
            callback(None)


@pytest.mark.parametrize(("patience_s", "admitted"), [(0.0, True), (60.0, False)])
def test_old_responses_make_room_for_new_ones(patience_s: float, admitted: bool) -> None:
    """At the least pace the old ones would have more than an hour."""

    async def main() -> None:
        limits = CallerLimits(send_timeout_s=patience_s, min_rate=1024, max_unread_bytes=8 * MIB)
        unread = grpc_server.Unread(limits, Metrics(version="test"))
        old = [asyncio.create_task(call(unread, 4 * MIB)) for _ in range(2)]
        await asyncio.sleep(0)
        new = asyncio.create_task(call(unread, 3 * MIB))
        await asyncio.wait([*old, new], timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert [task.done() for task in old] == [admitted, False]
        assert new.done() != admitted
        if not admitted:
            assert isinstance(new.exception(), GrpcError)
        for task in (*old, new):
            task.cancel()
        await asyncio.gather(*old, new, return_exceptions=True)
        assert repr(unread) == "<Unread 0 bytes>"

    asyncio.run(main())

"""The socket of a worker in the front: who closes it, and how often.

Not tested here: what is read from it (tests/hammer).
"""

import asyncio
import os
import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandboxd.front.servers.serving import loop_factory
from sandboxd.pool.worker import Worker

LOOPS = {"asyncio": asyncio.new_event_loop, "the front's": loop_factory()}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_worker_that_is_gone_at_once_leaves_no_descriptor_behind(loop: str) -> None:
    """The object and the transport must not both close the descriptor: its number may be another file's by then."""

    class Gone(Worker):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            self.disconnect()

    async def connect() -> tuple[int, bool]:
        events = cast(Any, SimpleNamespace(on_channel_lost=lambda _worker, _why: None))
        worker = Gone(1, cast(Any, SimpleNamespace(number=1)), events)
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = ours.fileno()
            await worker.connect(ours)
            for _ in range(5):
                await asyncio.sleep(0)
            try:
                os.fstat(descriptor)
            except OSError:
                return ours.fileno(), True
            return ours.fileno(), False

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        left, closed = runner.run(connect())
    assert closed
    assert left == -1

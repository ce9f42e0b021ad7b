"""The catalog: what it does beside the event loop. What it loads is tested with real servers, in tests/process."""

import asyncio
import threading
from typing import Any, cast

import pytest

from sandboxd.components import Loaded
from sandboxd.components.binding import Binding
from sandboxd.config import load
from sandboxd.server import catalog
from sandboxd.server.catalog import Catalog


def test_components_are_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def read(*_: object) -> Loaded:
        assert answered.wait(20), "the event loop stood still"
        return Loaded(bindings=(Binding(name="new", version="v1", url="file:///new.wasm"),), problems=())

    async def run() -> None:
        config, _ = load(None, environ={})
        nothing = cast(Any, None)
        made = Catalog(config, {}, nothing, nothing, None, ())
        reading = asyncio.create_task(made.unchanged())
        await asyncio.sleep(0)
        answered.set()  # what another request would do
        assert await reading is False

    monkeypatch.setattr(catalog, "read_components", read)
    asyncio.run(run())

"""Keeps the status document for all viewers. It is made at most once a second, and only if somebody requests it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from sandboxd.admin.document import Json, binding_document, document
from sandboxd.admin.report import Report

FRESH_S: Final = 0.9
"""The time for which a document is used again. Viewers request it once a second."""


class Snapshot:
    """The status of a server at one instant.

    Parameters:
        reports: the reports of all cells.
        shown: the document that was made of them.
    """

    def __init__(self, reports: Sequence[Report], shown: Json) -> None:
        self.reports = reports
        self.document = shown
        self.text = msgspec.json.encode(shown)


class Snapshots:
    """Makes snapshots.

    Parameters:
        reports: requests the reports of all cells.
        about: see `sandboxd.admin.document.document`.
    """

    def __init__(self, reports: Callable[[], Awaitable[Sequence[Report]]], about: Mapping[str, Any]) -> None:
        self._reports = reports
        self._about = about
        self._making: asyncio.Task[Snapshot] | None = None
        self._began = float("-inf")

    def __repr__(self) -> str:
        return f"<Snapshots since {self._began:.1f}>"

    async def latest(self) -> Snapshot:
        """Return a snapshot that was begun less than `FRESH_S` ago.

        Raises:
            TimeoutError: no cell answered.
        """
        now = time.monotonic()
        if self._making is None or now - self._began > FRESH_S or _failed(self._making):
            self._began = now
            self._making = asyncio.create_task(self._make(), name="status")
        return await asyncio.shield(self._making)

    async def of_binding(self, name: str) -> Json | None:
        """Return the document of one binding, with its failures and heat map; None if there is no such binding."""
        snapshot = await self.latest()
        shown = next((one for one in snapshot.document["bindings"] if one["name"] == name), None)
        more = binding_document(snapshot.reports, name)
        server = snapshot.document["server"]
        return None if shown is None or more is None else {**shown, **more, "server": server}

    async def _make(self) -> Snapshot:
        reports = await self._reports()
        if not reports:
            raise TimeoutError
        return Snapshot(reports, await document(reports, self._about))


def _failed(task: "asyncio.Task[Snapshot]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)

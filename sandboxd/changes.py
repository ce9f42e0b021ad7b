"""Notices that components or guests may have changed."""

import asyncio
import logging
from pathlib import Path

from watchfiles import Change, awatch

from sandboxd.catalog import Catalog
from sandboxd.config import Config
from sandboxd.errors import SandboxdError

log = logging.getLogger("sandboxd.changes")

MAX_WAIT_MS = 10_000
"""Changes that never pause are read after this long."""


async def watch(config: Config, catalog: Catalog, changed: asyncio.Event) -> None:
    """Set `changed` when a component file or a file:// guest changes, or an origin has a new guest. Runs for ever.

    Parameters:
        config: which folders, and how often origins are asked.
        catalog: which guests.
        changed: set each time.
    """
    async with asyncio.TaskGroup() as tasks:
        if config.reload.watch:
            tasks.create_task(_watch_files(config, catalog, changed))
        if config.modules.revalidate_ms and catalog.remote:
            tasks.create_task(_revalidate(config.modules.revalidate_ms / 1000, catalog, changed))
        await asyncio.Event().wait()


async def _watch_files(config: Config, catalog: Catalog, changed: asyncio.Event) -> None:
    folders = {Path(folder).resolve() for folder in config.resources_paths}
    guests = {Path(file).resolve() for file in catalog.local_files}

    def concerns_us(_: Change, path: str) -> bool:
        file = Path(path)
        if file.suffix.lower() in (".yaml", ".yml") and file.parent in folders:
            return True
        # A ConfigMap volume changes by renaming a link in the folder that holds the files.
        return file in guests or file.resolve() in guests or file.name == "..data"

    watched = {folder for folder in folders | {guest.parent for guest in guests} if folder.is_dir()}
    if not watched:
        return
    async for changes in awatch(
        *watched,
        watch_filter=concerns_us,
        debounce=MAX_WAIT_MS,
        step=max(config.reload.debounce_ms, 1),
        recursive=False,
        raise_interrupt=False,
    ):
        log.info("%d changed files noticed", len(changes))
        changed.set()


async def _revalidate(period_s: float, catalog: Catalog, changed: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            if not await catalog.unchanged():
                changed.set()
        except SandboxdError as error:
            log.warning("guests could not be revalidated: %s", error)

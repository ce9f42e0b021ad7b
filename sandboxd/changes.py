"""Notices that components or guests may have changed."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from watchfiles import Change, awatch

from sandboxd.config import Config
from sandboxd.errors import SandboxdError

log = logging.getLogger("sandboxd.changes")

MAX_WAIT_MS: Final = 10_000
"""Changes that never pause are read after this long."""
LOOK_S: Final = 1.0
"""How often files are looked at without an event: network and overlay filesystems do not tell of all changes."""

Appearance = dict[str, tuple[int, int, int]]
"""Path -> device and inode mixed, time of change, size: of every file that is read on a load."""


class Subject(Protocol):
    """What is watched: the catalog."""

    appearance: Appearance
    """Of all files when they were last read."""

    @property
    def local_files(self) -> tuple[str, ...]:
        """Paths of the guests that come from file://."""

    @property
    def remote(self) -> bool:
        """Whether a guest comes from an origin that can be asked for changes."""

    async def unchanged(self) -> bool:
        """Whether resolving everything anew gives the guests that are served already."""


def appearance(folders: Iterable[str], guests: Iterable[str]) -> Appearance:
    """How the component files of these folders, and these guests, look now. Files that are not there are left out."""
    files = {str(Path(guest).absolute()) for guest in guests}
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # a folder that is gone has no files
        files.update(str(Path(folder, name).absolute()) for name in names if _is_component_file(name))
    out: Appearance = {}
    for file in files:
        try:
            # Links are followed: a ConfigMap changes by a link in between being renamed.
            found = os.stat(file)
        except OSError:
            continue
        out[file] = (found.st_dev << 64 | found.st_ino, found.st_mtime_ns, found.st_size)
    return out


async def watch(config: Config, subject: Subject, changed: asyncio.Event) -> None:
    """Set `changed` when a component file or a file:// guest looks otherwise than when it was read, or an origin has a
    new guest. Runs for ever.

    Parameters:
        config: which folders, and how often origins are asked.
        subject: which guests, and how all looked.
        changed: set each time.
    """
    async with asyncio.TaskGroup() as tasks:
        if config.reload.watch:
            tasks.create_task(_watch_files(config, subject, changed))
        if config.modules.revalidate_ms and subject.remote:
            tasks.create_task(_revalidate(config.modules.revalidate_ms / 1000, subject, changed))
        await asyncio.Event().wait()


async def _watch_files(config: Config, subject: Subject, changed: asyncio.Event) -> None:
    noticed = subject.appearance

    def look() -> None:
        nonlocal noticed
        now = appearance(config.resources_paths, subject.local_files)
        if now != noticed:
            different = {file for file in now.keys() | noticed.keys() if now.get(file) != noticed.get(file)}
            log.info("%d changed files noticed", len(different))
            noticed = now
            changed.set()

    try:
        await _follow_events(config, subject, look)
    except OSError as error:
        log.warning("files are looked at every %.0f s, because the kernel does not watch them: %s", LOOK_S, error)
    while True:
        await asyncio.sleep(LOOK_S)
        look()


async def _follow_events(config: Config, subject: Subject, look: Callable[[], None]) -> None:
    """Look after every event and every LOOK_S. Returns if there is no folder to watch.

    Raises:
        OSError: the kernel refuses to watch more.
    """
    folders = {Path(folder).resolve() for folder in config.resources_paths}
    guests = {Path(file).resolve() for file in subject.local_files}

    def concerns_us(_: Change, path: str) -> bool:
        file = Path(path)
        if file.parent in folders and _is_component_file(file.name):
            return True
        # A ConfigMap volume changes by renaming a link in the folder that holds the files.
        return file in guests or file.resolve() in guests or file.name == "..data"

    watched = {folder for folder in folders | {guest.parent for guest in guests} if folder.is_dir()}
    if not watched:
        return
    # The first round ends at the latest after LOOK_S: what changed before the watch stood is seen then.
    async for _ in awatch(
        *watched,
        watch_filter=concerns_us,
        debounce=MAX_WAIT_MS,
        step=max(config.reload.debounce_ms, 1),
        rust_timeout=int(LOOK_S * 1000),
        yield_on_timeout=True,
        recursive=False,
    ):
        look()


async def _revalidate(period_s: float, subject: Subject, changed: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            if not await subject.unchanged():
                changed.set()
        except SandboxdError as error:
            log.warning("guests could not be revalidated: %s", error)


def _is_component_file(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in (".yaml", ".yml")

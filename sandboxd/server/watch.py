"""Watches component files and guests for changes."""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from watchfiles import Change, awatch

from sandboxd.config import Config
from sandboxd.errors import SandboxdError
from sandboxd.files.state import FileState, state_of
from sandboxd.log import fields

log = logging.getLogger("sandboxd.server.watch")

MAX_WAIT_MS: Final = 10_000
"""Changes without a pause are reloaded after this long at the latest."""
POLL_S: Final = 1.0
"""The interval at which files are polled as well: network and overlay filesystems do not report every change."""

RETRY_S: Final = 30.0
"""The time between two tries to have the kernel watch, once it refused."""

_SHORTAGES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

FileStats = dict[str, FileState]
"""Path -> state, for every file that a load reads. Of the folders of mounts only the identity counts: what lies in them
is for guests to look at."""


class Watched(Protocol):
    """The catalog, as far as the watch needs it."""

    file_stats: FileStats
    """The state of all files when they were last read."""

    @property
    def local_files(self) -> tuple[str, ...]:
        """The paths of the guests with a file:// URL."""

    @property
    def mounted(self) -> tuple[str, ...]:
        """The folders that workers reach for mounts. Another folder of the same name is beyond their reach."""

    @property
    def remote(self) -> bool:
        """Whether any guest comes from an origin, which can be asked for a new version."""

    async def unchanged(self) -> bool:
        """Return whether resolving everything again gives the guests that are served already."""


def file_stats(folders: Iterable[str], guests: Iterable[str], mounted: Iterable[str] = ()) -> FileStats:
    """Return the present state of the folders' component files, of the guests, and of the folders of mounts.

    Missing files are left out.

    Parameters:
        folders: the folders of component files.
        guests: the paths of guests.
        mounted: the folders of mounts, of which only the identity counts.

    Raises:
        OSError: the process has no descriptor or memory left to look, so nothing is known.
    """
    # As they are written, which is how they are read: `..` behind a link does not lead back to before the link.
    files = set(guests)
    for folder in folders:
        try:
            names = os.listdir(folder)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            continue  # a folder that no longer exists has no files
        files.update(os.path.join(folder, name) for name in names if _is_component_file(name))
    out: FileStats = {}
    mounts = set(mounted)
    for file in files | mounts:
        try:
            # Links are followed: Kubernetes changes a ConfigMap by renaming a link on the path.
            found = os.stat(file)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            continue
        state = state_of(found)
        out[file] = (state[0], 0, 0, 0) if file in mounts else state
    return out


async def watch(config: Config, subject: Watched, changed: asyncio.Event) -> None:
    """Set `changed` when something differs from when it was read: a component file, a file:// guest, the folder that
    has the name of a mount's, or an origin's guest.

    It never returns.

    Parameters:
        config: names the folders, and the interval at which origins are asked.
        subject: names the guests, and holds the state of the files when they were read.
        changed: is set at each change.
    """
    async with asyncio.TaskGroup() as tasks:
        if config.reload.watch:
            tasks.create_task(_watch_files(config, subject, changed))
        if config.modules.revalidate_ms and subject.remote:
            tasks.create_task(_revalidate(config.modules.revalidate_ms / 1000, subject, changed))
        await asyncio.Event().wait()


async def _watch_files(config: Config, subject: Watched, changed: asyncio.Event) -> None:
    known = subject.file_stats
    blind = polled = False

    async def check() -> None:
        nonlocal known, blind
        try:
            # In a thread: a thousand files take 10 ms, and those of a network filesystem may take any time.
            now = await asyncio.to_thread(file_stats, config.resources_paths, subject.local_files, subject.mounted)
        except (OSError, RuntimeError) as error:  # a RuntimeError if no thread starts
            # What cannot be looked at has not changed: a reload would fail for the same reason.
            if not blind:
                log.warning("changes of files are not noticed for now: %s", error)
            blind = True
            return
        if blind:
            log.info("changes of files are noticed again")
        blind = False
        if now != known:
            different = {file for file in now.keys() | known.keys() if now.get(file) != known.get(file)}
            log.info("%d changed files noticed", len(different))
            known = now
            changed.set()

    async def follow() -> None:
        nonlocal polled
        if polled:
            log.info("the kernel watches the files again", extra=fields(event="watching"))
        polled = False
        await check()

    while True:
        try:
            await _follow_events(config, subject, follow)
        except (OSError, RuntimeError) as error:  # watchfiles' own errors are RuntimeErrors
            if not polled:
                log.warning(
                    "files are polled every %.0f s, because the kernel does not watch them: %s "
                    "(raise fs.inotify.max_user_instances or the limit of descriptors)",
                    POLL_S,
                    error,
                    extra=fields(event="polling"),
                )
            polled = True
        until = time.monotonic() + RETRY_S
        while time.monotonic() < until:
            await asyncio.sleep(POLL_S)
            await check()


async def _follow_events(config: Config, subject: Watched, check: Callable[[], Awaitable[None]]) -> None:
    """Call `check` after every event, and at least every POLL_S. Return if there is no folder to watch.

    Raises:
        OSError, RuntimeError: the kernel refuses to watch more, or there is no descriptor or thread left.
    """
    folders, guests, watched = await asyncio.to_thread(_resolved, config.resources_paths, subject.local_files)

    def concerns_us(_: Change, path: str) -> bool:
        file = Path(path)
        if file.parent in folders and _is_component_file(file.name):
            return True
        # Kubernetes changes a ConfigMap volume by renaming a link in the folder of the files.
        return file in guests or file.resolve() in guests or file.name == "..data"

    if not watched:
        return
    # The first round ends after POLL_S at the latest. It finds what changed before the kernel's watch was set up.
    async for _ in awatch(
        *watched,
        watch_filter=concerns_us,
        debounce=MAX_WAIT_MS,
        step=max(config.reload.debounce_ms, 1),
        rust_timeout=int(POLL_S * 1000),
        yield_on_timeout=True,
        recursive=False,
    ):
        await check()


def _resolved(resources: Sequence[str], files: Sequence[str]) -> tuple[set[Path], set[Path], set[Path]]:
    """Return the folders of component files, the guests, and the folders to watch, without links on their paths."""
    folders = {Path(folder).resolve() for folder in resources}
    guests = {Path(file).resolve() for file in files}
    return folders, guests, {folder for folder in folders | {guest.parent for guest in guests} if folder.is_dir()}


async def _revalidate(period_s: float, subject: Watched, changed: asyncio.Event) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            if not await subject.unchanged():
                changed.set()
        except SandboxdError as error:
            log.warning("guests could not be revalidated: %s", error)


def _is_component_file(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in (".yaml", ".yml")

"""Watching never stops silently: without descriptors for inotify files are polled, and watched again later."""

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sandboxd.config import Config
from sandboxd.server import watch
from tests.waiting import BOUND_S

SCRIPT = """
import asyncio, logging, os, resource, sys
from pathlib import Path
from sandboxd.config import Config
from sandboxd.server import watch

folder = Path(sys.argv[1])
watch.RETRY_S = watch.POLL_S = 0.05


class Catalog:
    local_files = ()
    mounted = ()
    remote = False
    file_stats = watch.file_stats([str(folder)], [])


class Log(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts, self.came = [], asyncio.Event()

    def emit(self, record):
        self.texts.append(record.getMessage())
        self.came.set()


def fill(leave):
    taken = []
    while True:
        try:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    for fd in taken[-leave:] if leave else ():
        os.close(fd)
    return taken[: len(taken) - leave]


async def main():
    log = Log()
    logger = logging.getLogger("sandboxd.server.watch")
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)

    async def said(text):
        while not any(text in line for line in log.texts):
            log.came.clear()
            await asyncio.wait_for(log.came.wait(), 50)
        log.texts.clear()

    changed = asyncio.Event()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = fill(1)
    task = asyncio.create_task(watch.watch(Config(resources_paths=(str(folder),)), Catalog(), changed))
    await said("files are polled")
    os.close(held.pop())
    (folder / "a.yaml").write_text("a")
    await said("1 changed files noticed")
    more = fill(0)
    await said("changes of files are not noticed for now")
    for fd in held + more:
        os.close(fd)
    await said("noticed again")
    (folder / "b.yaml").write_text("b")
    await said("1 changed files noticed")
    await asyncio.sleep(0)
    print("done", task.done())
    task.cancel()


asyncio.run(main())
"""


def test_without_descriptors_files_are_polled_and_later_watched_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done False\n", done.stderr


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("one")
    found = file.stat()
    before = watch.file_stats([str(tmp_path)], [])
    with file.open("r+") as same:
        same.write("two")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (found.st_size, found.st_mtime_ns)
    assert watch.file_stats([str(tmp_path)], []) != before


def test_a_guest_above_a_linked_folder_is_found_where_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "releases" / "7" / "bin").mkdir(parents=True)
    guest = tmp_path / "releases" / "7" / "guest.wasm"
    guest.write_bytes(b"one")
    (tmp_path / "bin").symlink_to(guest.parent / "bin")
    url = f"{tmp_path}/bin/../guest.wasm"
    before = watch.file_stats([], [url])
    guest.write_bytes(b"another")
    assert watch.file_stats([], [url]) != before


class Catalog:
    local_files = ()
    mounted = ()
    remote = False

    def __init__(self, folder: Path) -> None:
        self.file_stats = watch.file_stats([str(folder)], [])

    async def unchanged(self) -> bool:
        return True


class Regained(logging.Handler):
    """Sets an event once the kernel watches again."""

    def __init__(self) -> None:
        super().__init__()
        self.event = asyncio.Event()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        if "watches the files again" in self.texts[-1]:
            self.event.set()


def test_an_error_of_the_watcher_is_said_once_and_overcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """watchfiles raises a RuntimeError where fs.inotify.max_user_instances is used up."""
    real = watch.awatch
    left = [1, 2, 3]

    def refused(*folders: Path, **options: Any) -> Any:
        if left:
            left.pop()
            raise RuntimeError("error creating recommended watcher: Too many open files (os error 24)")
        return real(*folders, **options)

    async def follow(log: Regained) -> None:
        changed = asyncio.Event()
        task = asyncio.create_task(watch.watch(Config(resources_paths=(str(tmp_path),)), Catalog(tmp_path), changed))
        async with asyncio.timeout(BOUND_S):
            await log.event.wait()
            (tmp_path / "a.yaml").write_text("a")
            await changed.wait()
        task.cancel()

    monkeypatch.setattr(watch, "awatch", refused)
    monkeypatch.setattr(watch, "RETRY_S", 0.01)
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    log = Regained()
    logger = logging.getLogger("sandboxd.server.watch")
    logger.addHandler(log)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        asyncio.run(follow(log))
    finally:
        logger.setLevel(level)
        logger.removeHandler(log)
    assert sum("files are polled" in text for text in log.texts) == 1

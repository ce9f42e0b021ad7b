"""Prunes the store: removes old entries, the least recently used first, and never one that is in use."""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from sandboxd.limits import MIB
from sandboxd.modules import trust
from sandboxd.modules.errors import StoreError
from sandboxd.modules.store import MAX_RECORD_BYTES, TEMPORARY, Store, read_record

UNFINISHED_S = 3600.0
"""The time for which temporary files, and artifacts without an index entry, stay: a process may be writing them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneSettings:
    """The store's limits."""

    max_bytes: int = 4096 * MIB
    """The size of artifacts and downloaded modules together."""
    max_age_s: float = 30 * 24 * 3600.0
    """The longest time since an entry was looked up: at a start, or at a reload that had to read its guest again."""


@dataclass(slots=True)
class _Item:
    used: float
    size: int
    folder: str
    name: str
    index: tuple[str, ...] = ()
    """The index entries that name it; they are removed first."""


def prune(store: Store, settings: PruneSettings, *, clock: Callable[[], float] = time.time) -> int:
    """Remove the entries that are too old, then the least recently used ones until the rest fits.

    Returns:
        the number of bytes freed; 0 if the store is read-only.
    """
    now = clock()
    freed = 0
    items = _artifacts(store, now) + _plain(store, "modules")
    total = sum(item.size for item in items)
    for item in sorted(items, key=lambda i: i.used):
        if now - item.used <= settings.max_age_s and total <= settings.max_bytes:
            continue
        if _remove(store, item):
            total -= item.size
            freed += item.size
    for item in _plain(store, "downloads"):
        if now - item.used > settings.max_age_s:
            _remove(store, item)
    for folder in ("artifacts", "index", "modules", "downloads"):
        for item in _plain(store, folder, prefix=TEMPORARY):
            if now - item.used > UNFINISHED_S and _remove(store, item):
                freed += item.size
    return freed


def _plain(store: Store, folder: str, prefix: str = "") -> list[_Item]:
    items: list[_Item] = []
    with suppress(OSError, StoreError), store.folder(folder) as fd:
        for name in os.listdir(fd):
            if name.startswith(TEMPORARY) != (prefix == TEMPORARY):
                continue
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                items.append(_Item(status.st_mtime, status.st_size, folder, name))
    return items


def _artifacts(store: Store, now: float) -> list[_Item]:
    """Return the artifacts with the index entries that name them. An artifact's last use is its latest entry's."""
    by_name = {item.name: item for item in _plain(store, "artifacts")}
    written = {name: item.used for name, item in by_name.items()}
    for item in by_name.values():
        item.used = 0.0
    for entry in _plain(store, "index"):
        data = store.read("index", entry.name, MAX_RECORD_BYTES)
        try:
            name = f"{read_record(data or b'').artifact}.cwasm"
        except msgspec.MsgspecError:
            name = ""
        found = by_name.get(name)
        if found is None:
            if now - entry.used > UNFINISHED_S:
                _remove(store, entry)
            continue
        found.used = max(found.used, entry.used)
        found.index = (*found.index, entry.name)
    return [i for i in by_name.values() if i.index or now - written[i.name] > UNFINISHED_S]


def _remove(store: Store, item: _Item) -> bool:
    """Remove one file, unless a process holds a lock on it. Return whether it was removed."""
    try:
        with store.folder(item.folder) as folder:
            fd = trust.open_file(item.name, item.name, dir_fd=folder)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in item.index:
                    with store.folder("index") as index, suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=index)
                os.unlink(item.name, dir_fd=folder)
            finally:
                os.close(fd)
    except (OSError, StoreError):
        return False  # in use, read-only, or already removed
    return True

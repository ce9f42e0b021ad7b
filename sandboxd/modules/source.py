"""Fetches a guest's bytes from file://, http:// or https://, and checks them against the pinned digest.

Downloads use the store as a cache:
- Each module is stored under its digest, with the ETag and Last-Modified of its URL's reply.
- Without a pin, each start revalidates with the origin. If the origin fails (no connection, timeout, 5xx, 429), the
  stored copy is used and a warning is logged. Any other answer counts, even a 404.
- With a pin, a stored module of that digest is used without a request: no other bytes would be accepted anyway.
"""

import asyncio
import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from sandboxd.components.url import UrlError, check_url
from sandboxd.files.state import FileState, is_settled, state_of
from sandboxd.modules import download_cache
from sandboxd.modules.download import PREFIX, Downloader, FetchSettings, redacted
from sandboxd.modules.errors import SourceError, StoreError, UnreachableError, causes_line
from sandboxd.modules.store import Store

log = logging.getLogger(__name__)

_PIECE = 1024 * 1024


class CacheStatus(StrEnum):
    """The source of a guest's bytes: the store, as a cache, or another."""

    FILE = "file"
    """They were read from a local file."""
    DOWNLOADED = "downloaded"
    """The origin sent them."""
    REVALIDATED = "revalidated"
    """The stored copy was used: the origin answered 304 Not Modified."""
    PINNED = "pinned"
    """The stored copy was used without a request: its digest is the pinned one."""
    STALE = "stale"
    """The stored copy was used because the origin could not be reached."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A guest's bytes and their source."""

    data: bytes
    digest: str
    """sha256, lower-case hex."""
    scheme: str
    """file, http or https."""
    cache_status: CacheStatus
    file: FileState | None = None
    """The state of the local file, if every later change of it is to be seen by its state."""


def scheme_of(url: str) -> str:
    """Return a URL's scheme: file, http or https.

    Raises:
        SourceError: see `sandboxd.components.url.check_url`.
    """
    try:
        return check_url(url, redacted(url))
    except UrlError as error:
        raise SourceError(causes_line(str(error)), remedy=error.remedy) from None


async def fetch(
    url: str,
    *,
    pin: str | None,
    store: Store,
    downloader: Downloader,
    settings: FetchSettings,
    on_bytes: Callable[[int, int], None] | None = None,
) -> Fetched:
    """Fetch a guest's bytes.

    Parameters:
        url: http://, https:// or file://PATH. PATH is taken literally; it is relative to the working directory unless
            it begins with /.
        pin: the required sha256 in lower-case hex; None requires none.
        store: caches downloads.
        downloader: the HTTP client.
        settings: the limits.
        on_bytes: called during a download with the bytes so far and the bytes announced (0 if unknown).
    Raises:
        SourceError: the bytes cannot be fetched, or do not have the pinned digest.
    """
    scheme = scheme_of(url)
    if scheme == "file":
        data, state = await asyncio.to_thread(_read, path_of(url), settings.max_bytes)
        digest = await asyncio.to_thread(_sha256, data)
        _check_pin(url, digest, pin)
        return Fetched(data=data, digest=digest, scheme=scheme, cache_status=CacheStatus.FILE, file=state)

    if pin is not None:
        kept = await asyncio.to_thread(download_cache.get_module, store, pin, settings.max_bytes)
        if kept is not None:
            return Fetched(data=kept, digest=pin, scheme=scheme, cache_status=CacheStatus.PINNED)

    known, kept = await asyncio.to_thread(_kept, store, url, settings.max_bytes)
    try:
        reply = await downloader.get(
            url,
            etag=known.etag if known else "",
            last_modified=known.last_modified if known else "",
            on_bytes=on_bytes,
        )
    except UnreachableError as error:
        if known is None or kept is None:
            raise
        _check_pin(url, known.module, pin)
        log.warning("%s; the copy of the last download is used", error.message)
        return Fetched(data=kept, digest=known.module, scheme=scheme, cache_status=CacheStatus.STALE)
    if reply.data is None:
        assert known is not None
        assert kept is not None
        _check_pin(url, known.module, pin)
        return Fetched(data=kept, digest=known.module, scheme=scheme, cache_status=CacheStatus.REVALIDATED)
    digest = await asyncio.to_thread(_sha256, reply.data)
    _check_pin(url, digest, pin)
    await asyncio.to_thread(
        _keep,
        store,
        url,
        reply.data,
        download_cache.DownloadRecord(module=digest, etag=reply.etag, last_modified=reply.last_modified),
    )
    return Fetched(data=reply.data, digest=digest, scheme=scheme, cache_status=CacheStatus.DOWNLOADED)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _kept(store: Store, url: str, max_bytes: int) -> tuple[download_cache.DownloadRecord | None, bytes | None]:
    """Return the stored record and module of a URL: both or neither."""
    known = download_cache.get_record(store, url)
    kept = download_cache.get_module(store, known.module, max_bytes) if known else None
    return (known, kept) if kept is not None else (None, None)


def _keep(store: Store, url: str, data: bytes, record: download_cache.DownloadRecord) -> None:
    """Store a download. A store that is read-only or full must not keep the server from starting, so it is logged."""
    try:
        download_cache.put_module(store, record.module, data)
        download_cache.put_record(store, url, record)
    except StoreError as error:
        log.warning("%s is not stored, so the next start needs its origin, too: %s", redacted(url), error)


def _check_pin(url: str, digest: str, pin: str | None) -> None:
    if pin is not None and digest != pin:
        raise SourceError(
            f'{PREFIX}"{redacted(url)}" has sha256 {digest}, and the component pins {pin}',
            remedy="the guest has changed; check it, then change the pin",
        )


def path_of(url: str) -> str:
    """Return the path in a file:// URL."""
    return url.removeprefix("file://")


def _read(path: str, max_bytes: int) -> tuple[bytes, FileState | None]:
    """Read a file, with the messages of Go's os.ReadFile. Return its content, and its state if that is settled."""
    shown = causes_line(path, 500)
    try:
        # O_NONBLOCK: a FIFO must not make the start wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            now_ns = time.time_ns()
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{PREFIX}open {shown}: not a regular file", remedy="use the path of a .wasm file")
            # One read suffices if the file still has the size that fstat reported.
            pieces = [file.read(min(status.st_size, max_bytes) + 1)]
            while pieces[-1] and sum(map(len, pieces)) <= max_bytes:
                pieces.append(file.read(_PIECE))
    except IsADirectoryError:
        raise SourceError(f"{PREFIX}read {shown}: is a directory", remedy="use the path of a .wasm file") from None
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise SourceError(f"{PREFIX}open {shown}: {why}", remedy=_path_remedy(path, error)) from error
    data = pieces[0] if len(pieces) == 2 and not pieces[1] else b"".join(pieces)
    if len(data) > max_bytes:
        raise SourceError(
            f"{PREFIX}{shown} is longer than {max_bytes} bytes",
            remedy="if this is intended, raise modules.maxDownloadSize",
        )
    state = state_of(status)
    return data, state if is_settled(state, now_ns) else None


def _path_remedy(path: str, error: Exception) -> str:
    """Return the remedy for a path that cannot be opened."""
    if isinstance(error, PermissionError):
        return f"let the user of the server, {os.geteuid()}, read the file and enter its folders"
    if path.startswith("~") or "/~" in path:
        return "~ is not expanded; write the whole path"
    if "%" in path:
        return "the path after file:// is not decoded; write the characters themselves, not %20"
    if not path.startswith("/"):
        return f"the path is relative to the working directory, {os.getcwd()}"
    return "write the path of the guest's file as the server sees it"

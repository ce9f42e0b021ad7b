"""A guest's bytes, from file://, http:// or https://, checked against the pin.

What downloads leave behind in the store:
- Every module is kept by its digest, with the ETag and Last-Modified its URL answered.
- Without a pin each start asks the origin, conditionally. If the origin cannot be asked (no connection, timeout, 5xx,
  429), the kept copy is used and a warning logged; any other answer is believed, a 404 too.
- With a pin, a kept module of that digest is used without asking: no other bytes would be accepted anyway.
"""

import asyncio
import errno
import hashlib
import logging
import os
import posixpath
import stat
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from sandboxd.modules import kept as keeping
from sandboxd.modules.download import PREFIX, Downloader, FetchSettings, redacted
from sandboxd.modules.errors import SourceError, StoreError, UnreachableError, one_line
from sandboxd.modules.store import Store

log = logging.getLogger(__name__)

_PIECE = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A guest's bytes and where they came from."""

    data: bytes
    digest: str
    """sha256, lower-case hex."""
    scheme: str
    """file, http or https."""
    how: str
    """read (file), downloaded, revalidated (304), pinned (kept, not asked) or offline (kept, origin not reachable)."""


def scheme_of(url: str) -> str:
    """file, http or https, by the same checks and texts as Dapr (common/wasm/wasm.go, GetInitMetadata).

    Raises:
        SourceError: missing url, invalid URL, TODO oci, or unsupported URL scheme.
    """
    if not url:
        raise SourceError(f"{PREFIX}missing url", remedy="give the component a metadata item `url`")
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise SourceError(
            f"{PREFIX}invalid URL: {redacted(url)}", remedy="write file://, http:// or https:// before it"
        )
    if scheme == "oci":
        raise SourceError(f"{PREFIX}TODO oci", remedy="images are not supported; use file://, http:// or https://")
    if scheme not in ("file", "http", "https"):
        raise SourceError(
            f"{PREFIX}unsupported URL scheme: {one_line(scheme, 100)}", remedy="use file://, http:// or https://"
        )
    if not rest.startswith("//") or (scheme != "file" and not _host(url)):
        raise SourceError(f"{PREFIX}invalid URL: {redacted(url)}", remedy=f"write {scheme}:// and where it is")
    return scheme


def guest_name(url: str) -> str:
    """argv[0]: the URL's base name without `.wasm`, as Dapr (path.Base of the path; of file URLs without decoding)."""
    path = url[7:] if url.startswith("file://") else unquote(urlsplit(url).path)
    base = posixpath.basename(path.rstrip("/")) or ("/" if path else ".")
    return base.removesuffix(".wasm")


async def fetch(
    url: str,
    *,
    pin: str | None,
    store: Store,
    downloader: Downloader,
    settings: FetchSettings,
    on_bytes: Callable[[int, int], None] | None = None,
) -> Fetched:
    """Get a guest.

    Parameters:
        url: file://PATH (taken literally after `file://`; relative to the working directory unless it begins with /),
            http:// or https://.
        pin: sha256 the bytes must have, lower-case hex.
        on_bytes: progress of a download: bytes so far, bytes announced or 0.
    Raises:
        SourceError: it cannot be had, or is not what was pinned.
    """
    scheme = scheme_of(url)
    if scheme == "file":
        data = await asyncio.to_thread(_read, url[7:], settings.max_bytes)
        digest = await asyncio.to_thread(_sha256, data)
        _check_pin(url, digest, pin)
        return Fetched(data=data, digest=digest, scheme=scheme, how="read")

    if pin is not None:
        kept = await asyncio.to_thread(keeping.module, store, pin, settings.max_bytes)
        if kept is not None:
            return Fetched(data=kept, digest=pin, scheme=scheme, how="pinned")

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
        log.warning("%s; going on with the copy kept from the last download", error.message)
        return Fetched(data=kept, digest=known.module, scheme=scheme, how="offline")
    if reply.data is None:
        assert known is not None
        assert kept is not None
        _check_pin(url, known.module, pin)
        return Fetched(data=kept, digest=known.module, scheme=scheme, how="revalidated")
    digest = await asyncio.to_thread(_sha256, reply.data)
    _check_pin(url, digest, pin)
    await asyncio.to_thread(
        _keep,
        store,
        url,
        reply.data,
        keeping.Download(module=digest, etag=reply.etag, last_modified=reply.last_modified),
    )
    return Fetched(data=reply.data, digest=digest, scheme=scheme, how="downloaded")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _kept(store: Store, url: str, max_bytes: int) -> tuple[keeping.Download | None, bytes | None]:
    """What the store knows of a URL; both or neither."""
    known = keeping.download(store, url)
    kept = keeping.module(store, known.module, max_bytes) if known else None
    return (known, kept) if kept is not None else (None, None)


def _keep(store: Store, url: str, data: bytes, download: keeping.Download) -> None:
    """Keeping is a convenience: a store that is only readable or full is no reason not to start."""
    try:
        keeping.keep_module(store, download.module, data)
        keeping.keep_download(store, url, download)
    except StoreError as error:
        log.warning("%s is not kept, and a restart will need its origin: %s", redacted(url), error)


def _check_pin(url: str, digest: str, pin: str | None) -> None:
    if pin is not None and digest != pin:
        raise SourceError(
            f'{PREFIX}"{redacted(url)}" has sha256 {digest}, and the component pins {pin}',
            remedy="somebody changed the guest; check it, then change the pin",
        )


def _read(path: str, max_bytes: int) -> bytes:
    """A file, with the texts of Go's os.ReadFile."""
    shown = one_line(path, 500)
    try:
        # O_NONBLOCK: a FIFO must not make the start wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as file:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(status.st_mode):
                raise SourceError(f"{PREFIX}open {shown}: no regular file", remedy="name a .wasm file")
            # One piece where the size is what the file system says, which it need not stay.
            pieces = [file.read(min(status.st_size, max_bytes) + 1)]
            while pieces[-1] and sum(map(len, pieces)) <= max_bytes:
                pieces.append(file.read(_PIECE))
    except IsADirectoryError:
        raise SourceError(f"{PREFIX}read {shown}: is a directory", remedy="name a .wasm file") from None
    except (OSError, ValueError) as error:
        why = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        remedy = f"a relative path begins at the working directory, {os.getcwd()}" if not path.startswith("/") else ""
        raise SourceError(f"{PREFIX}open {shown}: {why}", remedy=remedy) from error
    data = pieces[0] if len(pieces) == 2 and not pieces[1] else b"".join(pieces)
    if len(data) > max_bytes:
        raise SourceError(
            f"{PREFIX}{shown} is longer than {max_bytes} bytes", remedy="raise modules.maxDownloadSize if that is meant"
        )
    return data

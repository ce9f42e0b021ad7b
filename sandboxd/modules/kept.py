"""Downloaded guests and what revalidates them, kept in the store (folders `modules` and `downloads`)."""

import hashlib
import logging

import msgspec

from sandboxd.modules.store import DIGEST, MAX_RECORD_BYTES, Store

log = logging.getLogger(__name__)


class Download(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a URL: the module it gave, and the validators of that reply."""

    module: str
    etag: str = ""
    last_modified: str = ""


def keep_module(store: Store, digest: str, data: bytes) -> None:
    """Keep a downloaded guest by its sha256. Raises StoreError."""
    store.write("modules", f"{digest}.wasm", data)


def module(store: Store, digest: str, max_bytes: int) -> bytes | None:
    """A kept guest; None if it is missing, longer than `max_bytes`, or no longer has its digest."""
    name = f"{digest}.wasm"
    data = store.read("modules", name, max_bytes)
    if data is None:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        log.warning("%s: kept module %s is damaged and not used", store, name)
        return None
    store.touch("modules", name)
    return data


def keep_download(store: Store, url: str, download: Download) -> None:
    """Remember what a URL gave. The URL itself is not written: it may hold a password. Raises StoreError."""
    store.write("downloads", _name(url), msgspec.json.encode(download))


def download(store: Store, url: str) -> Download | None:
    """What a URL gave last; None if unknown or damaged."""
    name = _name(url)
    data = store.read("downloads", name, MAX_RECORD_BYTES)
    if data is None:
        return None
    try:
        found = msgspec.json.decode(data, type=Download)
    except msgspec.MsgspecError:
        log.warning("%s: download record %s is damaged and not used", store, name)
        return None
    if not DIGEST.fullmatch(found.module):
        return None
    store.touch("downloads", name)
    return found


def _name(url: str) -> str:
    return f"{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}.json"

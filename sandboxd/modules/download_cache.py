"""The download cache: downloaded guests and their HTTP validators, in the store's `modules` and `downloads` folders."""

import hashlib
import logging

import msgspec

from sandboxd.modules.store import DIGEST, MAX_RECORD_BYTES, Store

log = logging.getLogger(__name__)


class Download(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The record of a URL: the digest of the module that it gave, and the validators of that reply."""

    module: str
    etag: str = ""
    last_modified: str = ""


def keep_module(store: Store, digest: str, data: bytes) -> None:
    """Store a downloaded guest under its sha256. Raises StoreError."""
    store.write("modules", f"{digest}.wasm", data)


def module(store: Store, digest: str, max_bytes: int) -> bytes | None:
    """Return a stored guest; None if it is missing, longer than `max_bytes`, or damaged."""
    name = f"{digest}.wasm"
    data = store.read("modules", name, max_bytes)
    if data is None:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        log.warning("%s: stored module %s is damaged and not used", store, name)
        return None
    store.touch("modules", name)
    return data


def keep_download(store: Store, url: str, download: Download) -> None:
    """Store the record of a URL, under the URL's digest: the URL itself may hold a password. Raises StoreError."""
    store.write("downloads", _name(url), msgspec.json.encode(download))


def download(store: Store, url: str) -> Download | None:
    """Return the record of a URL; None if it is missing or damaged."""
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

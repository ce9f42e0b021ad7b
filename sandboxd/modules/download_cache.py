"""The download cache: downloaded guests and their HTTP validators, in the store's `modules` and `downloads` folders."""

import hashlib
import logging
from typing import Final

import msgspec

from sandboxd.modules.store import DIGEST, MAX_RECORD_BYTES, Store

log = logging.getLogger(__name__)


class DownloadRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last download of a URL: the digest of its module, and the validators of the reply."""

    module: str
    etag: str = ""
    last_modified: str = ""


# Made here, and not where it is used: see `sandboxd.modules.store.read_record`.
_read_record: Final = msgspec.json.Decoder(DownloadRecord).decode


def put_module(store: Store, digest: str, data: bytes) -> None:
    """Store a downloaded guest under its sha256. Raises StoreError."""
    store.write("modules", f"{digest}.wasm", data)


def get_module(store: Store, digest: str, max_bytes: int) -> bytes | None:
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


def put_record(store: Store, url: str, record: DownloadRecord) -> None:
    """Store the record of a URL under the URL's digest, since a URL may hold a password. Raises StoreError."""
    store.write("downloads", _name(url), msgspec.json.encode(record))


def get_record(store: Store, url: str) -> DownloadRecord | None:
    """Return the record of a URL; None if it is missing or damaged."""
    name = _name(url)
    data = store.read("downloads", name, MAX_RECORD_BYTES)
    if data is None:
        return None
    try:
        found = _read_record(data)
    except msgspec.MsgspecError:
        log.warning("%s: download record %s is damaged and not used", store, name)
        return None
    if not DIGEST.fullmatch(found.module):
        return None
    store.touch("downloads", name)
    return found


def _name(url: str) -> str:
    return f"{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}.json"

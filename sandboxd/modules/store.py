"""The artifact store: compiled guests by their digests, and downloaded modules with their HTTP validators.

    CACHE/store-1/artifacts/DIGEST.cwasm           machine code; DIGEST is the sha256 of the file itself
    CACHE/store-1/index/MODULE-ENGINE-CPU.json     the artifact of a guest for one engine and CPU
    CACHE/store-1/index.key                        the key of the index, see index_key.py
    CACHE/store-1/modules/DIGEST.wasm              downloaded guests
    CACHE/store-1/downloads/URLDIGEST.json         the ETag, the Last-Modified and the module of a URL

An artifact is named by its own digest, so its path can be sent to another process, which needs no other file to verify
it. The index entry is written after the artifact, so an unfinished artifact is never found. Each file is written as a
temporary file, synced and renamed. Each user of an artifact holds a shared lock on it, and pruning leaves locked files
alone. trust.py decides which files and folders are trusted.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from sandboxd.files.state import state_of
from sandboxd.modules import index_key, trust
from sandboxd.modules.artifact import FOLDER, digest_of
from sandboxd.modules.errors import StoreError
from sandboxd.modules.fingerprint import Fingerprint
from sandboxd.modules.index_key import IndexKey
from sandboxd.wire.messages import GuestKind

log = logging.getLogger(__name__)

LAYOUT = "store-1"
TEMPORARY = ".tmp-"
MAX_RECORD_BYTES = 64 * 1024

DIGEST = re.compile(r"[0-9a-f]{64}")


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An index entry."""

    module: str
    engine: str
    machine: str
    features: tuple[str, ...]
    kind: GuestKind
    artifact: str
    bytes: int
    mac: str = ""
    """See `sandboxd.modules.index_key`."""

    def signed_fields(self) -> tuple[str, ...]:
        """Return the fields that the MAC covers, as texts."""
        features = ",".join(self.features)
        return (self.module, self.engine, self.machine, features, self.kind, self.artifact, str(self.bytes))


# Made here, and not where it is used: two threads that prepare a type with an enumeration at once crash msgspec.
read_record: Final = msgspec.json.Decoder(Record).decode
"""Read an index entry. Raises msgspec.MsgspecError."""


class Artifact:
    """A compiled guest, complete and verified. It holds a shared lock until `close`, so that pruning spares it."""

    def __init__(self, path: str, record: Record, lock_fd: int) -> None:
        self.path = path
        """Its path, for `sandboxd.modules.artifact.open_verified`."""
        self.kind = record.kind
        self.bytes = record.bytes
        self.digest = record.artifact
        """Its own sha256, in lower-case hex."""
        self._record = record
        self._lock_fd = lock_fd
        self._state = state_of(os.fstat(lock_fd))

    def __repr__(self) -> str:
        return f"<Artifact {self.digest[:12]} {self.kind} {self.bytes} bytes{', closed' if self._lock_fd < 0 else ''}>"

    def shared(self) -> Artifact | None:
        """Return the same artifact with a lock of its own; None if it was closed, or its file was removed or changed.

        Its content is not read again. Whoever loads it verifies it (see `sandboxd.modules.artifact.open_verified`).
        """
        if self._lock_fd < 0:
            return None
        try:
            if state_of(os.stat(self.path)) != self._state:
                return None
            return Artifact(self.path, self._record, os.dup(self._lock_fd))
        except OSError:
            return None

    def close(self) -> None:
        """Release the lock: pruning may remove the file from now on."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    __del__ = close


class Draft:
    """An artifact that is being written: an open, locked temporary file. End it with `commit` or `abandon`."""

    def __init__(self, store: Store, name: str, fd: int) -> None:
        self._store = store
        self._name = name
        self.fd = fd
        """Write the artifact here."""

    def __repr__(self) -> str:
        return f"<Draft {self._name}{', ended' if self.fd < 0 else ''}>"

    def commit(self, module: str, fingerprint: Fingerprint, kind: GuestKind) -> Artifact:
        """Make it an artifact of the store.

        Parameters:
            module: the sha256 of the guest from which it was compiled.
            fingerprint: the fingerprint of the engine that compiled it.
            kind: the kind of the guest.
        Raises:
            StoreError: the file system is full or failed. The draft is then removed.
        """
        try:
            with self._store.folder(FOLDER, write=True) as folder, trust.store_errors("write", str(self._store)):
                digest, size = digest_of(self.fd)
                os.fsync(self.fd)
                name = f"{digest}.cwasm"
                os.rename(self._name, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            record = Record(
                module=module,
                engine=fingerprint.engine,
                machine=fingerprint.machine,
                features=tuple(sorted(fingerprint.features)),
                kind=kind,
                artifact=digest,
                bytes=size,
            )
            record = msgspec.structs.replace(record, mac=self._store.mac(record))
            self._store.write(
                "index", f"{module}-{fingerprint.engine}-{fingerprint.cpu}.json", msgspec.json.encode(record)
            )
        except BaseException:
            self.abandon()
            raise
        _lock(self.fd, fcntl.LOCK_SH)
        fd, self.fd = self.fd, -1
        return Artifact(os.path.join(self._store.path, FOLDER, name), record, fd)

    def abandon(self) -> None:
        """Remove it. After `commit` this does nothing."""
        if self.fd >= 0:
            with suppress(OSError, StoreError), self._store.folder(FOLDER) as folder:
                os.unlink(self._name, dir_fd=folder)
            os.close(self.fd)
            self.fd = -1

    __del__ = abandon


class Store:
    """The store inside a cache folder. Its calls block; several threads and processes may use it at once.

    Parameters:
        cache: the configured folder, created if missing. The store is a folder inside it, so that `cache` itself may
            be a mount point that belongs to another user.
    Raises:
        StoreError: the store cannot be created, or another user could have written to it.
    """

    def __init__(self, cache: str | Path) -> None:
        self.cache = os.path.abspath(cache)
        self.path = os.path.join(self.cache, LAYOUT)
        self._key = IndexKey(self.path)
        try:
            with self.folder(None):
                return
        except FileNotFoundError:
            pass
        with trust.store_errors("create", self.cache):
            os.makedirs(self.cache, mode=0o700, exist_ok=True)
        with self.folder(None, write=True):
            pass

    def __str__(self) -> str:
        return f"artifact store {self.path}"

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    @contextmanager
    def folder(self, name: str | None, *, write: bool = False) -> Iterator[int]:
        """Yield a checked descriptor of one of the store's folders.

        Parameters:
            name: the folder; None means the store itself.
            write: create the folder if it is missing.
        Raises:
            StoreError: the folder is not trusted, or cannot be created.
            FileNotFoundError: the folder is missing and `write` is false.
        """
        fd = trust.open_folder(self.path, str(self), create=write)
        try:
            if name is not None:
                inner = trust.open_folder(name, os.path.join(self.path, name), dir_fd=fd, create=write)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    # artifacts -------------------------------------------------------------------------------------------------------

    def find(self, module: str, fingerprint: Fingerprint) -> Artifact | None:
        """Return a verified artifact of a guest that this machine can run; None if there is none.

        An entry that is damaged or not trusted is logged and skipped.

        Parameters:
            module: the guest's sha256.
            fingerprint: the fingerprint of this process's engine.
        Raises:
            StoreError: the store as a whole is not trusted.
        """
        prefix = f"{module}-{fingerprint.engine}-"
        exact = f"{prefix}{fingerprint.cpu}.json"
        try:
            with self.folder("index") as folder:
                names = [n for n in os.listdir(folder) if n.startswith(prefix) and n.endswith(".json")]
        except FileNotFoundError:
            return None
        for name in sorted(names, key=lambda n: (n != exact, n)):
            record = self._record(name, module, fingerprint)
            if record is None:
                continue
            artifact = self._open(record)
            if artifact is not None:
                self.touch("index", name)
                return artifact
        return None

    def draft(self) -> Draft:
        """Begin to write an artifact.

        Raises:
            StoreError: the store cannot be written.
        """
        with self.folder(FOLDER, write=True) as folder:
            name, fd = self._temporary(folder)
        return Draft(self, name, fd)

    def mac(self, record: Record) -> str:
        """Return the MAC of a new index entry. Raises StoreError."""
        with self.folder(None, write=True) as folder:
            return self._key.mac(folder, *record.signed_fields())

    def _is_authentic(self, name: str, record: Record) -> bool:
        """Return whether an index entry was written by a process with the key, or not by this user."""
        try:
            with self.folder("index") as index:
                if index_key.unwritable(index, name):
                    return True
            with self.folder(None) as folder:
                if self._key.matches(folder, record.mac, *record.signed_fields()):
                    return True
        except FileNotFoundError:
            return False
        log.warning("%s: index entry %s was not written with this store's key; its guest is compiled again", self, name)
        return False

    def _record(self, name: str, module: str, fingerprint: Fingerprint) -> Record | None:
        data = self.read("index", name, MAX_RECORD_BYTES)
        if data is None:
            return None
        try:
            record = read_record(data)
        except msgspec.MsgspecError as error:
            log.warning("%s: index entry %s is damaged and not used: %s", self, name, error)
            return None
        mismatched = (
            record.module != module or record.engine != fingerprint.engine or not DIGEST.fullmatch(record.artifact)
        )
        if mismatched:
            log.warning("%s: index entry %s does not match its name and is not used", self, name)
            return None
        if record.machine != fingerprint.machine or not fingerprint.features.issuperset(record.features):
            return None  # compiled for another machine
        return record if self._is_authentic(name, record) else None

    def _open(self, record: Record) -> Artifact | None:
        name = f"{record.artifact}.cwasm"
        path = os.path.join(self.path, FOLDER, name)
        try:
            with self.folder(FOLDER) as folder:
                fd = trust.open_file(name, path, dir_fd=folder)
        except FileNotFoundError:
            return None
        except StoreError as error:
            log.warning("artifact not used: %s", error)
            return None
        try:
            _lock(fd, fcntl.LOCK_SH)
            status = os.fstat(fd)
            if status.st_nlink == 0:  # pruned between open and lock
                os.close(fd)
                return None
            if status.st_size == record.bytes and digest_of(fd)[0] == record.artifact:
                return Artifact(path, record, fd)
        except OSError as error:
            os.close(fd)
            log.warning("artifact %s cannot be read and is not used: %s", path, error.strerror)
            return None
        os.close(fd)
        log.warning("artifact %s is damaged and not used: its content has another digest than its name", path)
        return None

    # files -----------------------------------------------------------------------------------------------------------

    def read(self, folder: str, name: str, max_bytes: int) -> bytes | None:
        """Return a file's content; None if it is missing, too long, not trusted or unreadable (the log says why)."""
        try:
            with self.folder(folder) as dir_fd:
                fd = trust.open_file(name, os.path.join(self.path, folder, name), dir_fd=dir_fd)
        except FileNotFoundError:
            return None
        except StoreError as error:
            log.warning("%s: not used: %s", self, error)
            return None
        with os.fdopen(fd, "rb") as file:
            try:
                data = file.read(max_bytes + 1)
            except OSError as error:
                log.warning("%s: %s/%s cannot be read: %s", self, folder, name, error.strerror)
                return None
        return data if len(data) <= max_bytes else None

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Write a file atomically: temporary file, fsync, rename, fsync of the folder. Raises StoreError."""
        with self.folder(folder, write=True) as dir_fd:
            temporary, fd = self._temporary(dir_fd)
            try:
                with trust.store_errors("write", str(self)):
                    view = memoryview(data)
                    while view:
                        view = view[os.write(fd, view) :]
                    os.fsync(fd)
                    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
                    os.fsync(dir_fd)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=dir_fd)
                raise
            finally:
                os.close(fd)

    def _temporary(self, dir_fd: int) -> tuple[str, int]:
        name = f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with trust.store_errors("write", str(self)):
            fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
            _lock(fd, fcntl.LOCK_EX)
        return name, fd

    def touch(self, folder: str, name: str) -> None:
        """Record a use, for pruning. A read-only store is never pruned, so a failure there is ignored."""
        with suppress(OSError, StoreError), self.folder(folder) as dir_fd:
            os.utime(name, dir_fd=dir_fd, follow_symlinks=False)


def _lock(fd: int, operation: int) -> None:
    """Lock a file. Only pruning looks at locks. On a file system without them, it goes by age alone."""
    with suppress(OSError):
        fcntl.flock(fd, operation)

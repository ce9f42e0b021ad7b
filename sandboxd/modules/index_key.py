"""The key of the store's index: an attacker who can only write to the store cannot have an artifact loaded.

An entry of the index names the artifact that is loaded for a guest, and loading executes it. So each entry carries an
HMAC-SHA256 (RFC 2104) over all its fields. The key lies in the store's folder, with mode 0600. Only the process that
reads the index has it; the zygote and the workers do not. An entry that the server's user could not have written needs
no MAC: root put it there, as in an image, or its file system is mounted read-only.
"""

import hashlib
import hmac
import logging
import os
import secrets
from contextlib import suppress
from typing import Final

from sandboxd.modules import trust
from sandboxd.modules.errors import StoreError

log = logging.getLogger(__name__)

NAME: Final = "index.key"
KEY_BYTES: Final = 32


class IndexKey:
    """The key of one store, read or made when it is first needed.

    Parameters:
        path: the store's folder, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.join(path, NAME)
        self._key = b""

    def __repr__(self) -> str:
        return f"<IndexKey {self._path}{'' if self._key else ', not read'}>"

    def mac(self, folder: int, *parts: str) -> str:
        """Return the MAC of an entry that is being written.

        Parameters:
            folder: a descriptor of the store's folder. The key is made there if there is none.
            parts: all fields of the entry, in a fixed order.

        Raises:
            StoreError: the key cannot be made, or is not trusted.
        """
        if not self._read(folder):
            self._make(folder)
        return self._mac_of(parts)

    def matches(self, folder: int, mac: str, *parts: str) -> bool:
        """Return whether an entry was written by a process that has the key.

        Parameters:
            folder, parts: as for `mac`.
            mac: the MAC in the entry.

        Raises:
            StoreError: the key is not trusted.
        """
        return self._read(folder) and hmac.compare_digest(self._mac_of(parts).encode(), mac.encode())

    def _mac_of(self, parts: tuple[str, ...]) -> str:
        # Each part follows its length, so that no two lists of parts have the same text.
        text = b"".join(b"%d:%s" % (len(part.encode()), part.encode()) for part in parts)
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()

    def _read(self, folder: int) -> bool:
        if self._key:
            return True
        try:
            fd = trust.open_file(NAME, self._path, dir_fd=folder)
        except FileNotFoundError:
            return False
        # Others may read it, for example after `chmod -R a+rX`. That does no harm: they cannot write to the store.
        with os.fdopen(fd, "rb") as file, trust.store_errors("read", self._path):
            key = file.read(KEY_BYTES + 1)
        if len(key) != KEY_BYTES:
            raise StoreError(f"{self._path} is damaged", remedy="remove it; the guests are then compiled again")
        self._key = key
        return True

    def _make(self, folder: int) -> None:
        temporary = f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
        with trust.store_errors("write", self._path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                os.write(fd, secrets.token_bytes(KEY_BYTES))
                os.fsync(fd)
                # Unlike rename(2), this never replaces the key that another process has just made.
                with suppress(FileExistsError):
                    os.link(temporary, NAME, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            finally:
                os.close(fd)
                os.unlink(temporary, dir_fd=folder)
        self._read(folder)


def unwritable(folder: int, name: str) -> bool:
    """Return whether this process's user could neither have written a file of the index nor have put it there.

    Parameters:
        folder: a checked descriptor of the index.
        name: the entry's file name.
    """
    if os.fstatvfs(folder).f_flag & os.ST_RDONLY:
        return True
    user = os.geteuid()
    owners = {os.fstat(folder).st_uid, os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid}
    return user != 0 and user not in owners

"""Opens an artifact of the store for loading, and verifies it.

It is not part of `store`, because the zygote needs nothing else of the store, and each module that the zygote imports
makes the fork of a worker slower.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sandboxd.modules import trust
from sandboxd.modules.errors import StoreError

FOLDER: Final = "artifacts"
"""The store's folder of artifacts."""

_NAME = re.compile(r"[0-9a-f]{64}\.cwasm")
_CHUNK: Final = 1024 * 1024


@contextmanager
def open_verified(path: str) -> Iterator[str]:
    """Open an artifact for loading, without races: the bytes that are checked are the bytes that are loaded.

    Parameters:
        path: `Artifact.path`, which may come from another process.
    Yields:
        a /proc/self/fd path, valid inside the block. A mapping of it stays valid afterwards, whatever happens to the
        file.
    Raises:
        StoreError: the folder or file is not trusted, the file is missing, or its digest is not its name.
    """
    folder, name = os.path.split(path)
    store, inner = os.path.split(folder)
    if not _NAME.fullmatch(name) or inner != FOLDER:
        raise StoreError(f"{path} is not the path of an artifact", remedy="start the server again")
    try:
        outer = trust.open_folder(store, store)
        try:
            middle = trust.open_folder(inner, folder, dir_fd=outer)
        finally:
            os.close(outer)
        try:
            fd = trust.open_file(name, path, dir_fd=middle)
        finally:
            os.close(middle)
    except FileNotFoundError as error:
        raise StoreError(
            f"artifact {path} is missing", remedy="start the server again; it compiles the guest again"
        ) from error
    try:
        with trust.store_errors("read", path):
            digest, _ = digest_of(fd)
        if f"{digest}.cwasm" != name:
            raise StoreError(
                f"artifact {path} is damaged", remedy="start the server again; it compiles the guest again"
            )
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def digest_of(fd: int) -> tuple[str, int]:
    """Return the sha256 in hex and the length of a file's content, without moving its offset. Raises OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    at = 0
    while count := os.preadv(fd, [buffer], at):
        digest.update(view[:count])
        at += count
    return digest.hexdigest(), at

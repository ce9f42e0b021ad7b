"""A file of the artifact store, opened so that what is checked is what is loaded.

Apart from the store, because the zygote needs nothing else of it: whatever the zygote imports, each fork of a worker
pays for.
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
"""Of the store."""

_NAME = re.compile(r"[0-9a-f]{64}\.cwasm")
_CHUNK: Final = 1024 * 1024


@contextmanager
def open_verified(path: str) -> Iterator[str]:
    """Open an artifact for loading, free of races: what is checked is what is loaded.

    Parameters:
        path: `Artifact.path`, possibly handed over from another process.
    Yields:
        a /proc/self/fd path, good inside the block; what is mapped from it stays good afterwards, whatever happens
        to the file.
    Raises:
        StoreError: folder or file are not to be trusted, it is missing, or its content is not what its name says.
    """
    folder, name = os.path.split(path)
    store, inner = os.path.split(folder)
    if not _NAME.fullmatch(name) or inner != FOLDER:
        raise StoreError(f"{path} is no path of an artifact", remedy="start the server again")
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
        raise StoreError(f"artifact {path} is gone", remedy="start the server again; it compiles anew") from error
    try:
        with trust.explained("read", path):
            digest, _ = digest_of(fd)
        if f"{digest}.cwasm" != name:
            raise StoreError(f"artifact {path} is damaged", remedy="start the server again; it compiles anew")
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def digest_of(fd: int) -> tuple[str, int]:
    """(sha256 in hex, length) of a file's content, leaving its offset alone. Raises OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    at = 0
    while count := os.preadv(fd, [buffer], at):
        digest.update(view[:count])
        at += count
    return digest.hexdigest(), at

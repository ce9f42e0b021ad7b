"""Compiled guests kept in a folder, so that a later process need not compile them again.

Loading compiled code executes it. The folder must therefore belong to this user or to root, and nobody else may be able
to write into it. A file that is damaged, or that another version of wasmtime or another processor made, is replaced.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import wasmtime
from wasmtime import component as wc

from hostfuncs.limits import EngineSettings

_DIGEST: Final = hashlib.sha256
_DIGEST_BYTES: Final = 32
_KEPT_DAYS: Final = 30
"""The days without use after which a file is removed, the next time that another is written."""
_SUFFIX: Final = ".compiled"

Guest = wasmtime.Module | wc.Component


class CompiledCache:
    """A folder of compiled guests. Each file is a digest, followed by the code that it covers.

    Parameters:
        folder: the folder. It is created with mode 0700 if it is missing.
        settings: the settings of the engine that compiles and runs the guests.

    Raises:
        OSError: the folder cannot be made or opened.
        PermissionError: another user may write into it.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: EngineSettings) -> None:
        self._folder = Path(folder)
        self._engine = _engine_key(settings)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check(os.stat(self._folder), self._folder)

    def get(self, engine: wasmtime.Engine, data: bytes, compile_guest: Callable[[], Guest]) -> Guest:
        """Return a compiled guest, from the folder if it is there.

        Parameters:
            engine: the engine that will run it.
            data: the guest's binary.
            compile_guest: compiles it. Its exceptions are passed on.
        """
        path = self._folder / (_DIGEST(self._engine + data).hexdigest() + _SUFFIX)
        code = _read(path)
        if code is not None:
            kind = wc.Component if data[6:8] == b"\x01\0" else wasmtime.Module
            try:
                return kind.deserialize(engine, code)
            except wasmtime.WasmtimeError:
                # Another processor or a changed engine made it: wasmtime checks both before it uses any of the code.
                pass
        guest = compile_guest()
        try:
            self._write(path, guest.serialize())
        except OSError as error:
            text = "the compiled guest cannot be stored in %s: %s; the next process compiles it again"
            logging.getLogger("hostfuncs.cache").warning(text, self._folder, error.strerror)
        return guest

    def _write(self, path: Path, code: bytes | bytearray) -> None:
        # A reader sees a whole file or none.
        fd, name = tempfile.mkstemp(dir=self._folder)
        try:
            with open(fd, "wb") as file:
                file.write(_DIGEST(code).digest())
                file.write(code)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        oldest = time.time() - _KEPT_DAYS * 86400
        for entry in os.scandir(self._folder):
            if entry.name.endswith(_SUFFIX) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                os.unlink(entry.path)


def _read(path: Path) -> bytes | None:
    """Return the code in a file; None if the file is missing, damaged or not trusted."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not _trusted(status):
            return None
        os.utime(fd)
        content = memoryview(file.read())
    code = content[_DIGEST_BYTES:]
    return bytes(code) if _DIGEST(code).digest() == content[:_DIGEST_BYTES] else None


def _trusted(status: os.stat_result) -> bool:
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _check(status: os.stat_result, folder: Path) -> None:
    if not _trusted(status):
        raise PermissionError(
            f"other users may write into {folder}, and compiled guests are executed; "
            f"give another folder, or: chown {os.geteuid()} {folder} && chmod go-w {folder}"
        )


@cache
def _engine_key(settings: EngineSettings) -> bytes:
    """Return a digest of all that compiled code depends on besides the guest and the processor."""
    from hostfuncs.running import engine

    builder = Path(engine.__file__).read_bytes()
    return _DIGEST(f"{importlib.metadata.version('wasmtime')} {settings!r}".encode() + builder).digest()

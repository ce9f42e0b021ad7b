"""The folders of a binding's guest, opened before the wall stands: afterwards no path can be opened by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sandboxd.wire.messages import GuestSpec
from sandboxd.worker.guests import GuestError

if TYPE_CHECKING:
    from hostfuncs.files import FileSettings


def file_settings(spec: GuestSpec) -> FileSettings | None:
    """Return the settings of a guest's folders; None if it has none. The descriptors in it stay open.

    Parameters:
        spec: the binding.

    Raises:
        GuestError: a folder cannot be opened, or the system has no openat2.
    """
    if not spec.mounts and spec.tmp is None:
        return None
    # Not at the top: guests without files do without.
    from hostfuncs.files import FileSettings, Mount, Tmp, available

    if spec.mounts and not available():
        raise GuestError("mounts need openat2, that is Linux 5.6, and a sandbox around the server that lets it through")
    mounts = []
    for wanted in spec.mounts:
        try:
            anchor = os.open(wanted.anchor, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mount = Mount(source=wanted.source, target=wanted.target, read_only=wanted.read_only, anchor=anchor)
            os.close(mount.open())
        except OSError as error:
            where = os.path.join(wanted.anchor, wanted.source)
            raise GuestError(f"the mount {where} cannot be opened: {error.strerror}") from None
        mounts.append(mount)
    tmp = None if spec.tmp is None else Tmp(target=spec.tmp.target, size=spec.tmp.size, files=spec.tmp.files)
    return FileSettings(mounts=tuple(mounts), tmp=tmp)

"""A folder's entries as `fd_readdir` hands them out.

Source: WASI snapshot-01, typenames.witx: `dirent`.
"""

import struct
from array import array
from collections.abc import Sequence
from typing import Final

from hostfuncs.files.base import Entry

_DIRENT: Final = struct.Struct("<QQIB3x")


class Listing:
    """The entries of a folder as they were when it was listed, laid out once for all calls.

    Parameters:
        entries: in the order of their cookies.
    """

    __slots__ = ("_places", "_records")

    def __init__(self, entries: Sequence[Entry]) -> None:
        records = bytearray()
        places = array("Q")
        pack = _DIRENT.pack
        for cookie, (name, kind, inode) in enumerate(entries, 1):
            places.append(len(records))
            records += pack(cookie, inode, len(name), kind)
            records += name
        self._records = bytes(records)
        self._places = places

    def __repr__(self) -> str:
        return f"<Listing of {len(self._places)} entries>"

    def __len__(self) -> int:
        return len(self._places)

    def records(self, cookie: int, size: int) -> bytes:
        """Return what follows a cookie, at most `size` bytes of it. The last record may be cut."""
        if cookie >= len(self._places):
            return b""
        at = self._places[cookie]
        return self._records[at : at + size]

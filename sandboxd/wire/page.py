"""The status page: 4 KiB of memory a worker shares with the front, for what must be known after its death.

Frames to a worker are numbered 1, 2, 3, ... by both sides. The worker notes the number of the frame it begins
before it runs it; the front marks frames it takes back. Each side writes its own word first and reads the
other's after, with a full memory barrier between, so they never both own a frame. Both may let go of it at
the same instant, though: so a worker that skips a frame says so (`Skipped`), and a front that was told
"begun" and then hears `Skipped` has it back.
"""

import mmap
import struct
import threading

PAGE_BYTES = 4096
SLOTS = 64
"""Frames that may be outstanding; the front sends fewer."""

_BEGUN = struct.Struct("=Q")
_FLAGS_AT = 64


class StatusPage:
    """One worker's page, mapped from the memfd both sides hold.

    Parameters:
        fd: the memfd, at least PAGE_BYTES long. Not closed; the mapping outlives it.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, PAGE_BYTES)
        # An uncontended lock is two atomic read-modify-write instructions: the barrier Python has.
        self._barrier = threading.Lock()

    def __repr__(self) -> str:
        return f"<StatusPage begun={self.begun()}>"

    def begin(self, number: int) -> bool:
        """Worker: frame `number` is about to run. False if the front took it back; then it must not run."""
        _BEGUN.pack_into(self._map, 0, number)
        with self._barrier:
            pass
        at = _FLAGS_AT + number % SLOTS
        if self._map[at]:
            self._map[at] = 0
            return False
        return True

    def begun(self) -> int:
        """Number of the last frame the worker began; 0 before the first."""
        number: int = _BEGUN.unpack_from(self._map, 0)[0]
        return number

    def revoke(self, number: int) -> bool:
        """Front: take frame `number` back. True: it will not be run. False: it was begun, or Skipped will follow."""
        if self.begun() >= number:
            return False
        self._map[_FLAGS_AT + number % SLOTS] = 1
        with self._barrier:
            pass
        return self.begun() < number

    def restore(self, number: int) -> None:
        """Front: forget a mark that came too late, once the frame's result is there."""
        self._map[_FLAGS_AT + number % SLOTS] = 0

    def close(self) -> None:
        """Unmap."""
        self._map.close()

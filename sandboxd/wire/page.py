"""The status page: 4 KiB of memory that a worker shares with the front. The front can read it after the worker's death.

Both sides number the frames to a worker 1, 2, 3, ... The worker writes the number of a frame before it runs it. The
front marks the frames that it revokes. Each side writes its own word first and then reads the other's, with a full
memory barrier between. So both sides never own a frame at once. Both may give it up at the same instant, though.
Therefore a worker reports each frame that it skips (`Skipped`). The front then owns the frame again, even if it had
found it begun.
"""

import mmap
import threading

PAGE_BYTES = 4096
SLOTS = 64
"""More than the frames that the front ever has in flight at one worker."""

_FLAGS_AT = 64


class StatusPage:
    """One worker's page, mapped from the memfd that both sides hold.

    Parameters:
        fd: the memfd, at least PAGE_BYTES long. Not closed; the mapping outlives it.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, PAGE_BYTES)
        # One store of eight bytes. struct's pack_into clears the bytes first, and the front could read that 0.
        self.word = memoryview(self._map).cast("Q")
        """Its first value is the number of the last frame that the worker began; 0 before the first."""
        # Python has no memory barrier. Taking an uncontended lock is one: two atomic read-modify-write instructions.
        self._barrier = threading.Lock()

    def __repr__(self) -> str:
        return f"<StatusPage begun={self.begun()}>"

    def begin(self, number: int) -> bool:
        """In the worker: announce that a frame begins. Return False if the front revoked it: it must not run then."""
        self.word[0] = number
        with self._barrier:
            pass
        at = _FLAGS_AT + number % SLOTS
        if self._map[at]:
            self._map[at] = 0
            return False
        return True

    def begun(self) -> int:
        """Return the number of the last frame that the worker began; 0 before the first."""
        return self.word[0]

    def revoke(self, number: int) -> bool:
        """In the front: revoke a frame. Return True if it will not run; otherwise it was begun, or Skipped follows."""
        if self.begun() >= number:
            return False
        self._map[_FLAGS_AT + number % SLOTS] = 1
        with self._barrier:
            pass
        return self.begun() < number

    def restore(self, number: int) -> None:
        """In the front: clear a mark that came too late, once the frame's result has arrived."""
        self._map[_FLAGS_AT + number % SLOTS] = 0

    def close(self) -> None:
        """Unmap."""
        self.word.release()
        self._map.close()

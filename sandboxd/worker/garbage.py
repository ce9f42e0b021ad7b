"""Garbage collection in a worker: between invocations, where a pause delays no caller."""

import gc
from typing import Final

YOUNG_EVERY: Final = 256
"""The number of invocations between two collections of the young generation."""
OLDER_EVERY: Final = 8
FULL_EVERY: Final = 64
"""Every so many collections include the older generations. Otherwise an object that survived a collection and became
garbage later, such as a connection to an origin, would never be freed. The zygote's objects are frozen and cost no
time."""


class GarbageCollection:
    """Decides when to collect, in place of Python."""

    def __init__(self) -> None:
        gc.disable()
        self._next = YOUNG_EVERY
        self._rounds = 0

    def __repr__(self) -> str:
        return f"<GarbageCollection round={self._rounds}>"

    def after(self, number: int) -> None:
        """Collect if it is time.

        Parameters:
            number: the number of invocations so far.
        """
        if number < self._next:
            return
        self._next = number + YOUNG_EVERY
        self._rounds += 1
        gc.collect(2 if self._rounds % FULL_EVERY == 0 else 1 if self._rounds % OLDER_EVERY == 0 else 0)

"""When a worker collects Python's garbage: between invocations, where a pause is nobody's latency."""

import gc
from typing import Final

YOUNG_EVERY: Final = 256
"""Invocations between two collections of what is new."""
OLDER_EVERY: Final = 8
FULL_EVERY: Final = 64
"""Every so many of them reach further back: what outlived a collection and became garbage later, such as a connection
to an origin with all that belongs to it, would otherwise stay for ever. What the zygote had loaded is frozen and costs
nothing."""


class Tidying:
    """Takes the collector's timing over from Python."""

    def __init__(self) -> None:
        gc.disable()
        self._next = YOUNG_EVERY
        self._rounds = 0

    def __repr__(self) -> str:
        return f"<Tidying round={self._rounds}>"

    def after(self, number: int) -> None:
        """Collect if it is time.

        Parameters:
            number: invocations so far.
        """
        if number < self._next:
            return
        self._next = number + YOUNG_EVERY
        self._rounds += 1
        gc.collect(2 if self._rounds % FULL_EVERY == 0 else 1 if self._rounds % OLDER_EVERY == 0 else 0)

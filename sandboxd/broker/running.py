"""A page of memory on which the front notes what each worker runs, so that the broker seldom has to ask.

The front alone can write it: the broker maps it for reading, and the file refuses further mappings for writing. Workers
never see it. Each worker has a word of eight bytes, which is written at once and so never read half.
"""

import fcntl
import mmap
import os
from typing import Final

PAGE_BYTES: Final = 4096
NO_PLACE: Final = 0
"""Of a worker for which there was no place. What it runs has to be asked for."""
_PLACES: Final = PAGE_BYTES // 8
_BINDING_BITS: Final = 20
_MOST_BINDINGS: Final = (1 << _BINDING_BITS) - 1
_MOST_INVOCATIONS: Final = 1 << (64 - _BINDING_BITS)
_F_SEAL_FUTURE_WRITE: Final = 0x10
"""Linux 5.1; include/uapi/linux/fcntl.h. Python names it from 3.13 on."""


class Place:
    """The word of one worker, in the front.

    Parameters:
        words: the page.
        number: of the word, from 1.
    """

    __slots__ = ("_words", "number")

    def __init__(self, words: memoryview, number: int) -> None:
        self._words = words
        self.number = number

    def __repr__(self) -> str:
        return f"<Place {self.number}>"

    def note(self, invocation: int, guest: int) -> None:
        """Note what the worker runs from now on.

        Parameters:
            invocation: its id. One that is too large for the word is left out, and is asked for.
            guest: the position of its binding in what the generation's zygote has loaded.
        """
        fits = invocation < _MOST_INVOCATIONS and guest < _MOST_BINDINGS
        self._words[self.number] = invocation << _BINDING_BITS | guest + 1 if fits else 0

    def clear(self) -> None:
        """Note that it runs nothing."""
        self._words[self.number] = 0


class RunningPage:
    """The front's side of the page.

    Raises:
        OSError: there is no memory or no descriptor for it.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("sandboxd-running", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        """The descriptor that the broker is sent."""
        try:
            os.ftruncate(self.descriptor, PAGE_BYTES)
            self._words = memoryview(mmap.mmap(self.descriptor, PAGE_BYTES)).cast("Q")
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._free = list(range(_PLACES - 1, NO_PLACE, -1))

    def __repr__(self) -> str:
        return f"<RunningPage of {_PLACES - 1 - len(self._free)} workers>"

    def take(self) -> Place | None:
        """Return a place for a worker; None if none is free."""
        return Place(self._words, self._free.pop()) if self._free else None

    def give_back(self, place: Place) -> None:
        """The worker is dead."""
        place.clear()
        self._free.append(place.number)

    def close(self) -> None:
        """Close the descriptor. Places may still be written."""
        os.close(self.descriptor)


class RunningView:
    """The broker's side.

    Parameters:
        descriptor: of the page. Not closed; the mapping outlives it.

    Raises:
        OSError, ValueError: it cannot be mapped.
    """

    def __init__(self, descriptor: int) -> None:
        self._words = memoryview(mmap.mmap(descriptor, PAGE_BYTES, prot=mmap.PROT_READ)).cast("Q")

    def __repr__(self) -> str:
        return f"<RunningView of {sum(map(bool, self._words))} workers at work>"

    def guest_run_by(self, place: int, invocation: int) -> int | None:
        """Return the position of the binding for which the worker of a place runs an invocation.

        None if the page does not say that it runs this one: the front may know more.
        """
        word = self._words[place] if 0 < place < _PLACES else 0
        return (word & _MOST_BINDINGS) - 1 if word and word >> _BINDING_BITS == invocation else None

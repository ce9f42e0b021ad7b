"""A worker's garbage: nothing stays for ever, however many frames arrive at once."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from sandboxd.worker.tidying import FULL_EVERY, YOUNG_EVERY, Tidying


class Ring:
    """Garbage that only the collector can see."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def tidying() -> Iterator[Tidying]:
    gc.collect()
    yield Tidying()
    gc.enable()


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_new_garbage_goes_soon(tidying: Tidying, batch: int) -> None:
    gone = weakref.ref(Ring())
    assert gone() is not None
    for number in range(0, YOUNG_EVERY + batch, batch):
        tidying.after(number)
    assert gone() is None


def test_garbage_that_was_in_use_for_long_goes_in_the_end(tidying: Tidying) -> None:
    ring = Ring()
    number = 0
    for _ in range(3):
        gc.collect(0)
        gc.collect(1)
    gone = weakref.ref(ring)
    del ring
    for _ in range(FULL_EVERY):
        number += YOUNG_EVERY
        tidying.after(number)
    assert gone() is None

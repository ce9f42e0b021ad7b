"""Garbage collection in a worker: all garbage is freed in the end, however many frames arrive at once."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from sandboxd.worker.garbage import FULL_EVERY, YOUNG_EVERY, GarbageCollection


class Ring:
    """Garbage that only the collector can see."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def collection() -> Iterator[GarbageCollection]:
    gc.collect()
    yield GarbageCollection()
    gc.enable()


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_new_garbage_goes_soon(collection: GarbageCollection, batch: int) -> None:
    gone = weakref.ref(Ring())
    assert gone() is not None
    for number in range(0, YOUNG_EVERY + batch, batch):
        collection.after(number)
    assert gone() is None


def test_garbage_that_was_in_use_for_long_goes_in_the_end(collection: GarbageCollection) -> None:
    ring = Ring()
    number = 0
    for _ in range(3):
        gc.collect(0)
        gc.collect(1)
    gone = weakref.ref(ring)
    del ring
    for _ in range(FULL_EVERY):
        number += YOUNG_EVERY
        collection.after(number)
    assert gone() is None

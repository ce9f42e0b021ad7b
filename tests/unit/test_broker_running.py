"""The page on which the front notes for the egress broker what each worker runs.

What must hold: who reads it never finds a binding but that of the invocation at the head of the worker's queue, and
nobody but the front can write it (seals: memfd_create(2), fcntl(2)).
"""

import mmap
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandboxd.broker.running import NO_PLACE, PAGE_BYTES, RunningPage, RunningView
from sandboxd.pool.generation import GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.worker import Worker
from sandboxd.wire.messages import Call


@pytest.fixture
def page() -> Iterator[RunningPage]:
    made = RunningPage()
    yield made
    made.close()


def test_what_is_noted_is_read_and_nothing_else(page: RunningPage) -> None:
    first, second = page.take(), page.take()
    assert first is not None
    assert second is not None
    first.note(7, 3)
    second.note(8, 0)
    view = RunningView(page.descriptor)
    assert (view.guest_run_by(first.number, 7), view.guest_run_by(second.number, 8)) == (3, 0)
    assert view.guest_run_by(first.number, 8) is None
    assert view.guest_run_by(first.number, 0) is None
    first.clear()
    assert view.guest_run_by(first.number, 7) is None
    assert [view.guest_run_by(place, 8) for place in (NO_PLACE, -1, PAGE_BYTES // 8, 1 << 40)] == [None] * 4


@pytest.mark.parametrize(("invocation", "guest"), [(1 << 44, 0), (1 << 63, 0), (1, (1 << 20) - 1)])
def test_what_does_not_fit_is_left_out(page: RunningPage, invocation: int, guest: int) -> None:
    place = page.take()
    assert place is not None
    place.note(1, 1)
    place.note(invocation, guest)
    view = RunningView(page.descriptor)
    assert view.guest_run_by(place.number, invocation) is None
    assert view.guest_run_by(place.number, 1) is None


def test_places_end_and_come_back_empty(page: RunningPage) -> None:
    places = []
    while (place := page.take()) is not None:
        places.append(place)
    assert len({place.number for place in places}) == PAGE_BYTES // 8 - 1
    assert NO_PLACE not in {place.number for place in places}
    places[5].note(9, 9)
    page.give_back(places[5])
    again = page.take()
    assert again is not None
    assert again.number == places[5].number
    assert RunningView(page.descriptor).guest_run_by(again.number, 9) is None


def test_nobody_else_can_write_it(page: RunningPage) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(page.descriptor, PAGE_BYTES)
    for change in (
        lambda: os.pwrite(page.descriptor, b"x", 0),
        lambda: os.ftruncate(page.descriptor, 0),
        lambda: os.ftruncate(page.descriptor, 2 * PAGE_BYTES),
    ):
        with pytest.raises(PermissionError):
            change()


class Written:
    """A transport that takes all."""

    def write(self, data: bytes) -> None:
        """Take it."""


def test_the_worker_notes_the_head_of_its_queue(page: RunningPage) -> None:
    entries = {name: GuestEntry(index, name, 4) for index, name in enumerate(("alpha", "beta"))}
    worker = Worker(1, cast(Any, SimpleNamespace(entries=entries)), cast(Any, None))
    worker.connection_made(cast(Any, Written()))
    worker.place = page.take()
    assert worker.place is not None
    view = RunningView(page.descriptor)
    pool = cast(Any, None)
    runs = [Invocation(11 + n, name, Call(deadline_ns=0), lambda _: None, 0, pool) for n, name in enumerate(entries)]

    def noted() -> list[int | None]:
        assert worker.place is not None
        return [view.guest_run_by(worker.place.number, run.id) for run in runs]

    for run in runs:
        worker.send(run, entries[run.binding])
    assert noted() == [0, None]
    worker.leave(runs[0])
    assert noted() == [None, 1]
    worker.send(runs[0], entries["alpha"])
    worker.leave(runs[0])  # one that waited behind
    assert noted() == [None, 1]
    worker.leave(runs[1])
    assert noted() == [None, None]

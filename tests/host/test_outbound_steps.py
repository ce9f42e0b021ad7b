"""Coroutines driven in place: resumed, cancelled and ended as tasks are, and nothing lost between."""

import asyncio
from collections.abc import Iterator

import pytest

from hostfuncs.outbound.steps import Parking, Steps


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


class Diary:
    """Steps that park once, and what they wrote down."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lines: list[str] = []
        self.parking = Parking()
        self.future: asyncio.Future[str] = loop.create_future()
        self.loop = loop

    async def parked(self) -> None:
        await self._noted(self.parking)

    async def waiting(self) -> None:
        await self._noted(self.future)

    async def yielding(self) -> None:
        await self._noted(asyncio.sleep(0))

    async def in_a_task(self) -> None:
        await self._noted(self.loop.create_task(asyncio.sleep(3600)))

    async def _noted(self, what: object) -> None:
        self.lines.append("begun")
        try:
            self.lines.append(f"got {await what}")  # type: ignore[misc]
        except asyncio.CancelledError:
            self.lines.append("cancelled")
            raise
        finally:
            self.lines.append("cleaned")


def test_what_is_woken_goes_on_at_once_without_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    steps = Steps(loop, diary.parked())
    assert diary.lines == []
    steps.begin()
    assert (diary.lines, steps.done()) == (["begun"], False)
    diary.parking.wake()
    assert (diary.lines, steps.done()) == (["begun", "got None", "cleaned"], True)
    diary.parking.wake()
    assert not steps.cancel()


def test_a_future_is_awaited_as_a_task_awaits_it(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    steps = Steps(loop, diary.waiting())
    steps.begin()
    diary.future.set_result("it")
    assert not steps.done()
    turn(loop)
    assert diary.lines == ["begun", "got it", "cleaned"]
    assert steps.done()


def test_who_gives_up_its_turn_gets_it_back(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    steps = Steps(loop, diary.yielding())
    steps.begin()
    assert not steps.done()
    turn(loop)
    assert steps.done()


def test_parked_steps_are_cancelled_at_once(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    steps = Steps(loop, diary.parked())
    steps.begin()
    assert steps.cancel()
    assert diary.lines == ["begun", "cancelled", "cleaned"]
    assert steps.done()
    # Whoever brings something now finds nobody.
    diary.parking.wake()


@pytest.mark.parametrize("where", ["waiting", "yielding", "in_a_task"])
def test_steps_that_wait_for_the_loop_are_cancelled_by_it(loop: asyncio.AbstractEventLoop, where: str) -> None:
    diary = Diary(loop)
    steps = Steps(loop, getattr(diary, where)())
    steps.begin()
    assert steps.cancel()
    turn(loop)
    turn(loop)
    turn(loop)
    assert diary.lines == ["begun", "cancelled", "cleaned"]
    assert steps.done()
    assert not asyncio.all_tasks(loop)


def test_cancelled_between_the_result_and_the_turn(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    steps = Steps(loop, diary.waiting())
    steps.begin()
    diary.future.set_result("too late")
    steps.cancel()
    turn(loop)
    assert diary.lines == ["begun", "cancelled", "cleaned"]


def test_cancelled_by_itself_it_ends_where_it_next_waits(loop: asyncio.AbstractEventLoop) -> None:
    lines = []
    parking = Parking()

    async def coroutine() -> None:
        steps.cancel()
        lines.append("still here")
        await parking
        lines.append("not here")

    steps = Steps(loop, coroutine())
    steps.begin()
    assert lines == ["still here"]
    assert steps.done()


def test_a_clean_up_may_wait(loop: asyncio.AbstractEventLoop) -> None:
    parking, later = Parking(), Parking()

    async def coroutine() -> None:
        try:
            await parking
        finally:
            await later

    steps = Steps(loop, coroutine())
    steps.begin()
    steps.cancel()
    assert not steps.done()
    later.wake()
    assert steps.done()


def test_what_is_raised_reaches_who_resumed_it(loop: asyncio.AbstractEventLoop) -> None:
    parking = Parking()

    async def coroutine() -> None:
        await parking
        raise KeyboardInterrupt

    steps = Steps(loop, coroutine())
    steps.begin()
    with pytest.raises(KeyboardInterrupt):
        parking.wake()
    assert steps.done()

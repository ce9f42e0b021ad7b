"""Coroutines driven in place: resumed, cancelled and ended as tasks are, and nothing lost between."""

import asyncio
from collections.abc import Iterator

import pytest

from hostfuncs.outbound.inline_task import InlineTask, Suspension


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


class Diary:
    """InlineTask that park once, and what they wrote down."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lines: list[str] = []
        self.suspension = Suspension()
        self.future: asyncio.Future[str] = loop.create_future()
        self.loop = loop

    async def parked(self) -> None:
        await self._noted(self.suspension)

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
    task = InlineTask(loop, diary.parked())
    assert diary.lines == []
    task.begin()
    assert (diary.lines, task.done()) == (["begun"], False)
    diary.suspension.wake()
    assert (diary.lines, task.done()) == (["begun", "got None", "cleaned"], True)
    diary.suspension.wake()
    assert not task.cancel()


def test_a_future_is_awaited_as_a_task_awaits_it(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    task = InlineTask(loop, diary.waiting())
    task.begin()
    diary.future.set_result("it")
    assert not task.done()
    turn(loop)
    assert diary.lines == ["begun", "got it", "cleaned"]
    assert task.done()


def test_who_gives_up_its_turn_gets_it_back(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    task = InlineTask(loop, diary.yielding())
    task.begin()
    assert not task.done()
    turn(loop)
    assert task.done()


def test_parked_task_are_cancelled_at_once(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    task = InlineTask(loop, diary.parked())
    task.begin()
    assert task.cancel()
    assert diary.lines == ["begun", "cancelled", "cleaned"]
    assert task.done()
    # Whoever brings something now finds nobody.
    diary.suspension.wake()


@pytest.mark.parametrize("where", ["waiting", "yielding", "in_a_task"])
def test_a_task_that_wait_for_the_loop_are_cancelled_by_it(loop: asyncio.AbstractEventLoop, where: str) -> None:
    diary = Diary(loop)
    task = InlineTask(loop, getattr(diary, where)())
    task.begin()
    assert task.cancel()
    turn(loop)
    turn(loop)
    turn(loop)
    assert diary.lines == ["begun", "cancelled", "cleaned"]
    assert task.done()
    assert not asyncio.all_tasks(loop)


def test_cancelled_between_the_result_and_the_turn(loop: asyncio.AbstractEventLoop) -> None:
    diary = Diary(loop)
    task = InlineTask(loop, diary.waiting())
    task.begin()
    diary.future.set_result("too late")
    task.cancel()
    turn(loop)
    assert diary.lines == ["begun", "cancelled", "cleaned"]


def test_cancelled_by_itself_it_ends_where_it_next_waits(loop: asyncio.AbstractEventLoop) -> None:
    lines = []
    suspension = Suspension()

    async def coroutine() -> None:
        task.cancel()
        lines.append("still here")
        await suspension
        lines.append("not here")

    task = InlineTask(loop, coroutine())
    task.begin()
    assert lines == ["still here"]
    assert task.done()


def test_a_clean_up_may_wait(loop: asyncio.AbstractEventLoop) -> None:
    suspension, later = Suspension(), Suspension()

    async def coroutine() -> None:
        try:
            await suspension
        finally:
            await later

    task = InlineTask(loop, coroutine())
    task.begin()
    task.cancel()
    assert not task.done()
    later.wake()
    assert task.done()


def test_what_is_raised_reaches_who_resumed_it(loop: asyncio.AbstractEventLoop) -> None:
    suspension = Suspension()

    async def coroutine() -> None:
        await suspension
        raise KeyboardInterrupt

    task = InlineTask(loop, coroutine())
    task.begin()
    with pytest.raises(KeyboardInterrupt):
        suspension.wake()
    assert task.done()

"""The connection pool by itself, on scripted connections: which request gets which connection."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest

from hostfuncs.outbound.attempt import Attempt, Reply
from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.pool import Pool

A: Origin = ("http", "a.test", 80)
B: Origin = ("http", "b.test", 80)
SHARED: Origin = ("https", "shared.test", 443)


class Told:
    """A connection that is what it is told to be."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.usable = True
        self.old = False
        self.closed = False

    async def request(self, attempt: Attempt) -> Reply:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True

    def idle(self) -> bool:
        return self.usable and not self.closed

    def stale(self) -> bool:
        return self.old or self.closed

    def shares(self) -> bool:
        return self.origin is SHARED and self.idle()


class Scene:
    """A pool and every connection it made."""

    def __init__(self, connections: int = 2, idle_connections: int = 2) -> None:
        self.made: list[Told] = []
        self.changes = 0
        self.pool = Pool(
            self._make,
            connections=connections,
            idle_connections=idle_connections,
            new_future=lambda: asyncio.get_running_loop().create_future(),
            changed=self._changed,
        )

    def _make(self, origin: Origin) -> Told:
        self.made.append(Told(origin))
        return self.made[-1]

    def _changed(self) -> None:
        self.changes += 1

    @property
    def open(self) -> int:
        return sum(not connection.closed for connection in self.made)

    async def take(self, origin: Origin = A) -> Told:
        connection = await self.pool.take(origin)
        assert isinstance(connection, Told)
        return connection

    async def line_up(self, *origins: Origin) -> list[asyncio.Task[Told]]:
        """Tasks that wait, in this order."""
        tasks = []
        for origin in origins:
            tasks.append(asyncio.create_task(self.take(origin)))
            await asyncio.sleep(0)
        return tasks


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_the_newest_idle_connection_to_the_origin_is_used_first() -> None:
    async def scenario() -> None:
        scene = Scene(connections=4, idle_connections=4)
        first, second, other = await scene.take(), await scene.take(), await scene.take(B)
        for connection in (first, second, other):
            scene.pool.put(connection)
        assert await scene.take() is second
        assert await scene.take() is first
        assert await scene.take() not in (first, second, other)
        assert repr(scene.pool) == "<Pool 3 taken, 1 idle, 0 waiting>"

    run(scenario())


@pytest.mark.parametrize("fault", ["old", "closed"])
def test_what_went_stale_is_closed_and_not_used(fault: str) -> None:
    async def scenario() -> None:
        scene = Scene()
        first, second = await scene.take(), await scene.take()
        scene.pool.put(first)
        scene.pool.put(second)
        setattr(first, fault, True)
        setattr(second, fault, True)
        third = await scene.take()
        assert third not in (first, second)
        assert first.closed
        assert second.closed
        assert len(scene.pool) == 1

    run(scenario())


def test_what_is_put_back_broken_is_closed() -> None:
    async def scenario() -> None:
        scene = Scene()
        connection = await scene.take()
        connection.usable = False
        scene.pool.put(connection)
        assert connection.closed
        assert (scene.pool.taken, scene.pool.idle) == (0, 0)
        assert scene.changes == 2

    run(scenario())


def test_no_more_are_idle_than_may_be() -> None:
    async def scenario() -> None:
        scene = Scene(connections=4, idle_connections=2)
        taken = [await scene.take() for _ in range(4)]
        for connection in taken:
            scene.pool.put(connection)
        assert [connection.closed for connection in taken] == [True, True, False, False]

    run(scenario())


def test_none_is_kept_where_none_may_be_idle() -> None:
    async def scenario() -> None:
        scene = Scene(idle_connections=0)
        connection = await scene.take()
        scene.pool.put(connection)
        assert connection.closed

    run(scenario())


def test_the_oldest_goes_when_its_time_is_over() -> None:
    async def scenario() -> None:
        scene = Scene(connections=4, idle_connections=4)
        first, second = await scene.take(), await scene.take(B)
        scene.pool.put(first)
        first.old = True
        scene.pool.put(second)
        assert first.closed
        assert not second.closed

    run(scenario())


def test_an_idle_connection_elsewhere_makes_room() -> None:
    async def scenario() -> None:
        scene = Scene()
        first, second = await scene.take(), await scene.take(B)
        scene.pool.put(first)
        third = await scene.take(B)
        assert third is not second
        assert first.closed
        assert scene.open == 2

    run(scenario())


def test_at_the_limit_it_is_first_come_first_served() -> None:
    async def scenario() -> None:
        scene = Scene()
        first, second = await scene.take(), await scene.take()
        waiting = await scene.line_up(B, A, A, B)
        assert (scene.pool.waiting, scene.open) == (4, 2)
        scene.pool.put(first)
        # Given to the first in line, who wants another origin: closed for that.
        assert first.closed
        newcomer = asyncio.create_task(scene.take())
        got = [await waiting[0]]
        assert got[0].origin is B
        scene.pool.put(second)
        got.append(await waiting[1])
        assert got[1] is second
        for number in (2, 3):
            scene.pool.put(got[number - 2])
            got.append(await waiting[number])
        assert not newcomer.done()
        scene.pool.put(got[2])
        await newcomer
        assert scene.open == 2
        assert scene.pool.waiting == 0

    run(scenario())


def test_a_broken_connection_gives_its_place_to_who_waits() -> None:
    async def scenario() -> None:
        scene = Scene(connections=1)
        first = await scene.take()
        (waiting,) = await scene.line_up(A)
        first.usable = False
        scene.pool.put(first)
        assert await waiting is not first
        assert scene.open == 1

    run(scenario())


def test_who_gives_up_leaves_the_line() -> None:
    async def scenario() -> None:
        scene = Scene(connections=1)
        first = await scene.take()
        waiting = await scene.line_up(A, A)
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        assert scene.pool.waiting == 1
        scene.pool.put(first)
        assert await waiting[1] is first

    run(scenario())


def test_what_is_handed_to_somebody_who_gives_up_just_then_goes_to_the_next() -> None:
    async def scenario() -> None:
        scene = Scene(connections=1)
        first = await scene.take()
        waiting = await scene.line_up(A, A)
        scene.pool.put(first)
        waiting[0].cancel()
        assert await waiting[1] is first
        assert waiting[0].cancelled()
        scene.pool.put(first)
        assert (scene.pool.taken, scene.pool.idle) == (0, 1)

    run(scenario())


def test_who_was_cancelled_before_the_hand_over_gets_nothing() -> None:
    async def scenario() -> None:
        scene = Scene(connections=1)
        first = await scene.take()
        (waiting,) = await scene.line_up(A)
        waiting.cancel()
        scene.pool.put(first)
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert (scene.pool.taken, scene.pool.idle, scene.pool.waiting) == (0, 1, 0)

    run(scenario())


def test_a_connection_that_carries_several_is_shared_and_idle_after_the_last() -> None:
    async def scenario() -> None:
        scene = Scene(connections=1)
        taken = [await scene.take(SHARED) for _ in range(3)]
        assert len(scene.made) == 1
        for connection in taken[1:]:
            scene.pool.put(connection)
            assert (scene.pool.taken, scene.pool.idle) == (1, 0)
        # Others wait for it to be free altogether, but not those it can carry.
        other, same = await scene.line_up(A, SHARED)
        assert await same is taken[0]
        scene.pool.put(taken[0])
        assert not other.done()
        scene.pool.put(taken[0])
        assert (await other).origin is A
        assert taken[0].closed

    run(scenario())


def test_closing_closes_what_is_taken_too() -> None:
    async def scenario() -> None:
        scene = Scene()
        first, second = await scene.take(), await scene.take()
        scene.pool.put(first)
        scene.pool.close()
        assert first.closed
        assert second.closed
        scene.pool.put(second)
        assert len(scene.pool) == 0

    run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_whoever_gives_up_when(seed: int) -> None:
    dice = random.Random(seed)
    limit = dice.choice([1, 2, 5])

    async def user(scene: Scene) -> None:
        for _ in range(dice.randrange(1, 6)):
            connection = await scene.take(dice.choice([A, B, SHARED]))
            try:
                # One that is shared may be closed by another of its users before this one's turn comes.
                assert not connection.closed or connection.origin is SHARED
                assert len(scene.pool) <= limit
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                if dice.random() < 0.2:
                    connection.close()
                elif dice.random() < 0.1:
                    connection.old = True
                scene.pool.put(connection)

    async def scenario() -> None:
        scene = Scene(connections=limit, idle_connections=dice.choice([0, 1, limit]))
        users = [asyncio.create_task(user(scene)) for _ in range(40)]
        while not all(each.done() for each in users):
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            if dice.random() < 0.3:
                dice.choice(users).cancel()
        assert [each.exception() for each in users if not each.cancelled() and each.exception() is not None] == []
        assert any(not each.cancelled() for each in users)
        assert (scene.pool.taken, scene.pool.waiting) == (0, 0)
        assert scene.open == scene.pool.idle

    run(scenario())

"""The gate: who is let in, who is refused, and how many refusals a busy loop can afford."""

import asyncio

import pytest

from sandboxd.front.answering import load_shedding as admission
from sandboxd.front.answering.load_shedding import Gate
from sandboxd.pool.errors import QueueFull, Rejected


class Pool:
    """A pool with the capacity that the test sets."""

    def __init__(self, room: int) -> None:
        self.left = room
        self.turned_away = 0

    def has_short_runs(self) -> bool:
        return True

    def capacity(self, _binding: str) -> int:
        return self.left

    def reject_queue_full(self, _binding: str) -> Rejected:
        self.turned_away += 1
        return QueueFull("full")


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """The thread's statistics, one reading after another; the last one is repeated."""
    given = [(0, 0, 0)]
    monkeypatch.setattr(admission._SpareTime, "_now", lambda _: given.pop(0) if len(given) > 1 else given[0])
    return given


MS = 1_000_000


def test_shut_only_without_room() -> None:
    pool = Pool(1)
    gate = Gate(pool)
    assert not gate.shut("a")
    pool.left = 0
    assert gate.shut("a")
    gate.close()


async def enter(gate: Gate, entered: list[int], number: int) -> None:
    await gate.enter("a")
    entered.append(number)


def test_the_newest_is_let_in_and_the_oldest_refused(readings: list[tuple[int, int, int]]) -> None:
    """One refusal can be afforded: 10 % of 12 ms of running are ten refusals of 120 us, so 1.2 ms are one."""
    readings[:] = [(0, 0, 0), (1_200_000, 1_200_000, 0)]

    async def scenario() -> None:
        pool = Pool(0)
        gate = Gate(pool)
        entered: list[int] = []
        waiting = [asyncio.create_task(enter(gate, entered, number)) for number in range(3)]
        await asyncio.sleep(0)
        pool.left = 1
        with pytest.raises(QueueFull):
            await waiting[0]
        await waiting[2]
        assert entered == [2]
        assert not waiting[1].done()
        pool.left = 5
        await waiting[1]
        assert pool.turned_away == 1
        gate.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_loop_that_sleeps_refuses_all(readings: list[tuple[int, int, int]]) -> None:
    readings[:] = [(0, 0, 0), (100 * MS, 1 * MS, 0)]

    async def scenario() -> None:
        pool = Pool(0)
        gate = Gate(pool)
        answers = await asyncio.gather(*(gate.enter("a") for _ in range(100)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {QueueFull}
        assert pool.turned_away == 100
        gate.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize(
    ("passed", "ran", "delayed", "most"),
    [
        pytest.param(100 * MS, 100 * MS, 0, 83, id="busy: a tenth"),
        pytest.param(100 * MS, 50 * MS, 50 * MS, 41, id="kept from running: a tenth of what it ran"),
        pytest.param(10 * MS, 1 * MS, 0, 75, id="mostly asleep"),
        pytest.param(10_000 * MS, 0, 0, 416, id="no more than is saved up"),
    ],
)
def test_what_can_be_afforded(
    readings: list[tuple[int, int, int]], passed: int, ran: int, delayed: int, most: int
) -> None:
    readings[:] = [(0, 0, 0), (passed, ran, delayed)]
    spare = admission._SpareTime()
    spare.start()
    assert spare.affordable(admission.SHARE_SHORT_RUNS) == most
    spare.close()


def test_guests_that_take_long_leave_more_of_the_loop_to_refusals(readings: list[tuple[int, int, int]]) -> None:
    readings[:] = [(0, 0, 0), (12 * MS, 6 * MS, 6 * MS)]

    class Slow(Pool):
        def has_short_runs(self) -> bool:
            return False

    async def scenario() -> None:
        pool = Slow(0)
        gate = Gate(pool)
        waiting = [asyncio.create_task(gate.enter("a")) for _ in range(30)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert pool.turned_away == 25  # half of 6 ms
        pool.left = 5
        await asyncio.wait(waiting)
        assert pool.turned_away == 25
        await asyncio.gather(*waiting, return_exceptions=True)
        gate.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_refusals_go_on_while_the_loop_sleeps_beside_them_and_shrink_when_it_does_not(
    readings: list[tuple[int, int, int]],
) -> None:
    readings[:] = [(0, 0, 0), (10 * MS, 5 * MS, 0), (20 * MS, 13 * MS, 0), (30 * MS, 23 * MS, 0)]
    spare = admission._SpareTime()
    spare.start()

    def spend() -> int:
        number = spare.affordable(admission.SHARE_SHORT_RUNS)
        for _ in range(number):
            spare.spend()
        return number

    first, second, third = spend(), spend(), spend()
    assert first == 45  # 5 ms asleep and a tenth of 5
    assert second > first  # as many again, and 2 ms asleep
    assert third <= 9  # nothing but the tenth of 10 ms, and what was left over
    spare.close()


def test_a_caller_that_is_cancelled_at_the_gate_is_nobody() -> None:
    async def scenario() -> None:
        pool = Pool(0)
        gate = Gate(pool)
        gone = asyncio.create_task(gate.enter("a"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(QueueFull):
            await gate.enter("a")
        assert pool.turned_away == 1
        gate.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_bindings_are_refused_in_turn_and_let_in_by_their_own_room(readings: list[tuple[int, int, int]]) -> None:
    """Three refusals can be afforded at first: 10 % of 3.6 ms."""
    readings[:] = [(0, 0, 0), (3_600_000, 3_600_000, 0)]

    class Two(Pool):
        def capacity(self, binding: str) -> int:
            return self.left if binding == "b" else 0

    async def scenario() -> None:
        pool = Two(0)
        gate = Gate(pool)
        loud = [asyncio.create_task(gate.enter("a")) for _ in range(5)]
        quiet = [asyncio.create_task(gate.enter("b")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await loud[1]
        assert [task.done() for task in loud] == [True, True, False, False, False]
        assert [task.done() for task in quiet] == [True, False]
        pool.left = 1
        await quiet[1]
        readings[:] = [(10**12, 0, 0)]
        with pytest.raises(QueueFull):
            await loud[4]
        assert pool.turned_away == 6
        await asyncio.gather(*loud, *quiet, return_exceptions=True)
        gate.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_request_that_breaks_at_the_gate_keeps_nobody_else_there() -> None:
    """What is not a future is answered within the decision, and whatever goes wrong with that is its own affair."""

    class Broken:
        def done(self) -> bool:
            return False

        def set_result(self, _result: None) -> None:
            raise RuntimeError("its answer cannot be sent")

        def set_exception(self, _refusal: Rejected) -> None:
            raise RuntimeError("its refusal cannot be sent")

    async def scenario() -> list[str]:
        told: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        pool = Pool(0)
        gate = Gate(pool)
        gate.line_up("a", Broken())
        with pytest.raises(QueueFull):
            await gate.enter("a")
        waiting = asyncio.create_task(gate.enter("a"))
        await asyncio.sleep(0)
        gate.line_up("a", Broken())
        pool.left = 10
        await waiting
        gate.close()
        return told

    told = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert told == ["its refusal cannot be sent", "its answer cannot be sent"]

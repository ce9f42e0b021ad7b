"""The pool's parts without processes: transition table, waiting queue, status page, look-ahead rule."""

import itertools
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.outcome import Outcome
from sandboxd.pool.errors import QueueFull
from sandboxd.pool.generation import SHORT_NS, GuestEntry
from sandboxd.pool.invocation import Invocation
from sandboxd.pool.state import TRANSITIONS, IllegalTransitionError, WorkerEvent, WorkerState, advance
from sandboxd.pool.waiting import WaitingQueue
from sandboxd.wire.messages import Call, Result
from sandboxd.wire.page import PAGE_BYTES, SLOTS, StatusPage


class Pool:
    """Remembers what was abandoned."""

    def __init__(self) -> None:
        self.abandoned: list[Invocation] = []

    def abandon(self, invocation: Invocation) -> None:
        self.abandoned.append(invocation)


def make(number: int, binding: str) -> Invocation:
    return Invocation(number, binding, Call(deadline_ns=0), lambda _: None, 0, Pool())


def test_an_invocation_is_answered_once_and_not_after_its_caller_has_gone() -> None:
    pool = Pool()
    answers: list[Result | Exception] = []
    result, refusal = Result(id=1, outcome=Outcome.COMPLETED), QueueFull("full")
    answered = Invocation(1, "a", Call(deadline_ns=0), answers.append, 0, pool)
    answered.answer(result)
    answered.answer(refusal)
    answered.abandon()
    assert (answers, pool.abandoned) == ([result], [])
    left = Invocation(2, "a", Call(deadline_ns=0), answers.append, 0, pool)
    left.abandon()
    left.abandon()
    left.answer(result)
    assert (answers, pool.abandoned) == ([result], [left])


def test_the_table_never_revives_a_worker() -> None:
    for state, event in itertools.product(WorkerState, WorkerEvent):
        if (state, event) not in TRANSITIONS:
            with pytest.raises(IllegalTransitionError, match=f"{event.name} in state {state.name}"):
                advance(state, event)
    assert all(after is not WorkerState.GONE for (state, event), after in TRANSITIONS.items() if event.name != "EXITED")
    assert not [key for key in TRANSITIONS if key[0] is WorkerState.GONE]
    ways_into_work = {state for (state, event), _ in TRANSITIONS.items() if event is WorkerEvent.SENT}
    assert ways_into_work == {WorkerState.IDLE, WorkerState.BUSY}


def test_bindings_take_turns_and_each_keeps_its_order() -> None:
    queue = WaitingQueue(10)
    for number, binding in enumerate("aaabc"):
        queue.append(make(number, binding))
    order = []
    while (taken := queue.take(lambda _: True)) is not None:
        order.append((taken.binding, taken.id))
    assert order == [("a", 0), ("b", 3), ("c", 4), ("a", 1), ("a", 2)]


def test_a_binding_at_its_limit_is_passed_over() -> None:
    queue = WaitingQueue(10)
    for number, binding in enumerate("ab"):
        queue.append(make(number, binding))
    taken = queue.take(lambda binding: binding != "a")
    assert taken is not None
    assert taken.binding == "b"
    assert queue.take(lambda binding: binding != "a") is None
    assert len(queue) == 1


def test_what_is_given_back_comes_first_even_when_full() -> None:
    queue = WaitingQueue(1)
    queue.append(make(1, "a"))
    assert queue.free_places("a") == queue.free_places("b") == 0
    queue.requeue(make(0, "a"))
    assert queue.free_places("a") == -1
    assert repr(queue) == "<WaitingQueue 2/1 of 1 bindings>"
    assert [queue.take(lambda _: True).id for _ in range(2)] == [0, 1]  # type: ignore[union-attr]


@given(st.lists(st.tuples(st.sampled_from(["append", "take", "remove", "back"]), st.sampled_from("abc")), max_size=60))
def test_the_queue_loses_and_invents_nothing(steps: list[tuple[str, str]]) -> None:
    queue = WaitingQueue(1000)
    inside: list[Invocation] = []
    for number, (step, binding) in enumerate(steps):
        if step in ("append", "back"):
            invocation = make(number, binding)
            (queue.append if step == "append" else queue.requeue)(invocation)
            inside.append(invocation)
        elif step == "take":
            taken = queue.take(lambda name, mine=binding: name == mine)
            assert (taken is None) == (not any(one.binding == binding for one in inside))
            if taken is not None:
                inside.remove(taken)
        elif inside:
            assert queue.remove(inside.pop())
        assert len(queue) == len(inside)
    left = queue.clear()
    assert sorted(one.id for one in left) == sorted(one.id for one in inside)


@pytest.fixture
def pages() -> Iterator[tuple[StatusPage, StatusPage]]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, PAGE_BYTES)
    front, worker = StatusPage(fd), StatusPage(fd)
    os.close(fd)
    yield front, worker
    front.close()
    worker.close()


def test_a_frame_belongs_to_the_front_until_it_is_begun(pages: tuple[StatusPage, StatusPage]) -> None:
    front, worker = pages
    assert front.revoke(1)
    assert not worker.begin(1)
    assert worker.begin(2)
    assert not front.revoke(2)
    assert front.begun() == 2


def test_slots_are_used_again_without_old_marks(pages: tuple[StatusPage, StatusPage]) -> None:
    front, worker = pages
    assert front.revoke(1)
    assert not worker.begin(1)
    assert worker.begin(1 + SLOTS)
    # A mark that came too late is forgotten by the front once the result is there.
    assert not front.revoke(1 + SLOTS)
    front.restore(1 + SLOTS)
    assert worker.begin(1 + 2 * SLOTS)


def test_one_long_run_ends_look_ahead_and_short_ones_bring_it_back() -> None:
    entry = GuestEntry(0, "a", 1)
    assert not entry.short
    entry.observe(SHORT_NS // 10)
    assert entry.short
    entry.observe(SHORT_NS * 100)
    assert not entry.short
    runs = 0
    while not entry.short:
        entry.observe(SHORT_NS // 10)
        runs += 1
    assert 10 < runs < 60

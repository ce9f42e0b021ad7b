"""Busy polling: when the front and the workers poll instead of sleeping."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sandboxd.config.machine import may_poll
from sandboxd.outcome import Outcome
from sandboxd.pool import polling
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.adaptive_gate import AdaptiveGate
from sandboxd.worker.channel import Channel
from tests.hammer.scripted import Process, World
from tests.hammer.test_steps import Scene


def answered(scene: Scene, process: Process, *, guest_ns: int = 20_000) -> m.Invoke:
    """Let a process run its next frame and answer it; gives back the frame."""
    process.begin()
    frame = process.running
    assert frame is not None
    process.finish(Outcome.COMPLETED, guest_ns, False)
    process.deliver()
    scene.world.loop.settle()
    return frame


def quick(scene: Scene, process: Process) -> None:
    """Run until the binding is known to take little time, with pauses in which nobody polls."""
    for _ in range(30):
        scene.call()
        answered(scene, process)
        scene.world.clock.now_ns += polling.WORKER_NS


def test_a_worker_polls_after_a_frame_that_came_soon_after_the_last_answer(world: World) -> None:
    scene = Scene(world, polling=True)
    (process,) = scene.alive()
    scene.call()
    assert answered(scene, process).poll_ns == 0, "the first frame came after nothing"
    world.clock.now_ns += polling.WORKER_NS - 1
    scene.call()
    assert answered(scene, process).poll_ns == polling.WORKER_NS
    world.clock.now_ns += polling.WORKER_NS
    scene.call()
    assert answered(scene, process).poll_ns == 0, "the one before came too late to poll for"


def test_only_what_is_alone_in_flight_is_polled_for(world: World) -> None:
    scene = Scene(world, polling=True, workers=2)
    first, second = scene.alive()
    scene.call()
    last = first if first.unread else second
    answered(scene, last)
    scene.call()
    scene.call()
    assert sorted(process.unread[0].poll_ns for process in (first, second)) == [0, polling.WORKER_NS]
    for process in (first, second):
        answered(scene, process)


def test_nobody_polls_where_it_is_switched_off(world: World) -> None:
    scene = Scene(world, polling=False)
    (process,) = scene.alive()
    for _ in range(3):
        scene.call()
        assert answered(scene, process).poll_ns == 0


class Looks:
    """Counts how often the front looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        look = polling.Polling._look

        def counted(*arguments: Any) -> None:
            self.count += 1
            look(*arguments)

        monkeypatch.setattr(polling.Polling, "_look", counted)


def test_the_front_looks_for_the_result_of_a_quick_guest_until_it_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    scene = Scene(world, polling=True)
    (process,) = scene.alive()
    scene.call()
    world.loop.settle()
    assert looks.count == 0, "nothing is known of the guest yet"
    answered(scene, process)
    quick(scene, process)
    looks.count = 0
    scene.call()
    world.loop.settle()
    assert looks.count > 2
    answered(scene, process)
    looked = looks.count
    world.loop.settle()
    assert looks.count == looked, "it has the result"


def test_the_front_stops_looking_after_a_while_and_does_not_try_every_time_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    scene = Scene(world, polling=True)
    (process,) = scene.alive()
    quick(scene, process)
    tried = 0
    for _ in range(45):
        looks.count = 0
        scene.call()
        tried += looks.count > 0
        world.clock.now_ns += polling.FRONT_NS
        world.loop.settle()
        looked = looks.count
        world.loop.settle()
        assert looks.count == looked
        answered(scene, process)
    # Four failures are allowed (less what the successes before have saved: nothing), then one in nine.
    assert 4 <= tried <= 4 + 45 // 8


def test_what_pays_is_tried_again_and_again_and_what_does_not_rarely() -> None:
    gate = AdaptiveGate()
    for _ in range(100):
        assert gate.allow()
        gate.succeeded()
    tried = 0
    for _ in range(900):
        if gate.allow():
            tried += 1
            gate.failed()
    assert 100 <= tried <= 104
    for _ in range(32):
        if gate.allow():
            gate.succeeded()
    assert all(gate.allow() for _ in range(3))


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel()
        channel.connect(theirs)
        yield channel, ours


FRAME = m.Invoke(id=1, guest=0, call=m.Call(deadline_ns=1))


def test_a_worker_that_polls_takes_what_comes_meanwhile_and_what_comes_later(
    ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, front = ends
    looked = threading.Event()
    yielded = os.sched_yield

    def sched_yield() -> None:
        yielded()
        looked.set()

    monkeypatch.setattr(os, "sched_yield", sched_yield)
    received: list[list[codec.ToWorker] | None] = []
    for poll_ns in (10**10, 1):  # it comes while the worker looks, and long after it has stopped looking
        looked.clear()
        thread = threading.Thread(target=lambda poll_ns=poll_ns: received.append(channel.receive(poll_ns)))
        thread.start()
        assert looked.wait(60)
        front.sendall(codec.encode(FRAME))
        thread.join(60)
        assert not thread.is_alive()
    assert received == [[FRAME], [FRAME]]


def test_a_worker_that_polls_notices_the_end_of_the_front(ends: tuple[Channel, socket.socket]) -> None:
    channel, front = ends
    front.close()
    began = time.monotonic()
    assert channel.receive(60 * 10**9) is None
    assert time.monotonic() - began < 60


def test_polling_needs_a_second_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxd.config.machine.cgroup_cpus", lambda *_: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert may_poll()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert not may_poll()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("sandboxd.config.machine.cgroup_cpus", lambda *_: 1.5)
    assert not may_poll(), "what is metered is not spent on waiting"

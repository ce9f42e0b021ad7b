"""The log lines of failed requests: a few of each kind in a second, and the counts of the others."""

import asyncio
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sandboxd import log
from sandboxd.front.answering import sampling
from sandboxd.front.answering.sampling import FEW, MANY, MAX_TOLD, PERIOD_S, Sampler
from sandboxd.outcome import Outcome


@pytest.fixture(autouse=True)
def counts() -> Iterator[None]:
    log.dropped_lines.clear()
    yield
    log.dropped_lines.clear()


@pytest.fixture
def said() -> Iterator[list[logging.LogRecord]]:
    found: list[logging.LogRecord] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    ear, level = Ear(), sampling.log.level
    sampling.log.addHandler(ear)
    sampling.log.setLevel(logging.INFO)
    yield found
    sampling.log.removeHandler(ear)
    sampling.log.setLevel(level)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only when a test says so."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(sampling.time, "monotonic", lambda: now.s)
    return now


def told(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    return [getattr(record, log.ATTRIBUTE) for record in records]


def test_a_few_of_each_kind_and_the_count_of_the_others(clock: SimpleNamespace, said: list[logging.LogRecord]) -> None:
    async def run() -> None:
        sampled = Sampler("s")
        few = [True] * FEW
        assert [sampled.in_full("a", Outcome.TRAPPED, "failed") for _ in range(FEW + 4)] == few + [False] * 4
        assert sampled.in_full("b", Outcome.TRAPPED, "failed"), "another binding"
        assert sampled.in_full("a", Outcome.EXIT_NONZERO, "failed"), "another outcome"
        assert sampled.in_full("a", Outcome.TRAPPED, "cut off"), "another line"
        assert said == []
        clock.s += PERIOD_S
        assert sampled.in_full("a", Outcome.TRAPPED, "failed"), "a new period"
        assert [record.getMessage() for record in said] == ["failed: 4 more like it"]
        assert sum(sampled.in_full("a", Outcome.TRAPPED, "failed") for _ in range(FEW)) == FEW - 1
        sampled.tell()
        assert [line["count"] for line in told(said)] == [4, 1]

    asyncio.run(run())
    assert told(said)[0] == {"event": "failures_counted", "binding": "a", "outcome": "trapped", "count": 4}
    assert log.dropped_lines == {("s", "a"): 5}


def test_of_many_kinds_the_first_of_each(clock: SimpleNamespace, said: list[logging.LogRecord]) -> None:
    async def run() -> int:
        sampled = Sampler("s")
        return sum(sampled.in_full(f"b{number % MANY}", Outcome.TRAPPED, "failed") for number in range(FEW * MANY))

    assert asyncio.run(run()) == MANY


def test_the_last_ones_are_told_though_no_other_follows(said: list[logging.LogRecord]) -> None:
    async def run() -> None:
        sampled = Sampler("s")
        assert sum(sampled.in_full("a", Outcome.TRAPPED, "failed") for _ in range(FEW + 2)) == FEW
        async with asyncio.timeout(20):
            while not said:  # noqa: ASYNC110 - a timer of the real clock is what is tested
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert [line["count"] for line in told(said)] == [2]


def test_what_is_not_logged_is_not_counted_as_left_out(said: list[logging.LogRecord]) -> None:
    async def run() -> None:
        sampled = Sampler("s")
        assert not any(sampled.in_full("a", Outcome.BAD_REQUEST, "failed") for _ in range(3)), "its level is debug"
        sampled.tell()

    asyncio.run(run())
    assert said == []
    assert not log.dropped_lines


def test_at_debug_each_has_its_line(said: list[logging.LogRecord]) -> None:
    async def run() -> None:
        sampled = Sampler("s")
        sampling.log.setLevel(logging.DEBUG)
        assert all(sampled.in_full("a", Outcome.TRAPPED, "failed") for _ in range(9 * FEW))
        sampled.tell()

    asyncio.run(run())
    assert said == []
    assert not log.dropped_lines


def test_however_many_kinds_there_are_the_lines_are_few(said: list[logging.LogRecord]) -> None:
    kinds = 10 * MAX_TOLD

    async def run() -> int:
        sampled = Sampler("s")
        full = 0
        for number in range(kinds):
            for _ in range(10 + number):
                full += sampled.in_full(f"b{number}", Outcome.TRAPPED, "failed")
        sampled.tell()
        return full

    full = asyncio.run(run())
    assert full < MANY + kinds
    assert len(said) == MAX_TOLD + 1
    assert told(said)[0]["binding"] == f"b{kinds - 1}", "those with most requests are named"
    assert full + sum(line["count"] for line in told(said)) == sum(10 + number for number in range(kinds))

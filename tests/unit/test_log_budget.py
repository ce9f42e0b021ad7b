"""The lines that guests can cause: how many pass, that the rest is counted, and that it is said once a second."""

import asyncio
import io
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd import log
from sandboxd.metrics import Metrics
from sandboxd.wire.standard_error import StandardError
from tests.exposition import expose as exposed


@pytest.fixture(autouse=True)
def counts() -> Iterator[None]:
    log.dropped_lines.clear()
    yield
    log.dropped_lines.clear()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes only when a test says so."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(log.time, "monotonic", lambda: now.s)
    return now


def test_a_burst_passes_and_then_the_rate(clock: SimpleNamespace) -> None:
    async def run() -> None:
        budget = log.Budget("s", lines_per_s=10, bytes_per_s=1e9, burst_s=2)
        assert [budget.admits("a") for _ in range(25)] == [True] * 20 + [False] * 5
        assert budget.admits("b"), "one binding leaves the others theirs"
        clock.s += 0.5
        assert [budget.admits("a") for _ in range(7)] == [True] * 5 + [False] * 2
        clock.s += 1000
        assert sum(budget.admits("a") for _ in range(100)) == 20

    asyncio.run(run())
    assert log.dropped_lines["s", "a"] == 5 + 2 + 80


def test_that_nothing_is_left_is_known_without_the_text(clock: SimpleNamespace) -> None:
    async def run() -> None:
        budget = log.Budget("s", lines_per_s=10, bytes_per_s=1e9, burst_s=1)
        assert not budget.spent("a")
        assert [budget.admits("a") for _ in range(10)] == [True] * 10
        assert budget.spent("a")
        assert log.dropped_lines["s", "a"] == 1, "counted, because it is not logged"
        clock.s += 0.1
        assert not budget.spent("a")
        assert budget.admits("a")

    asyncio.run(run())


@given(texts=st.lists(st.text(max_size=400), max_size=200))
def test_bytes_as_they_are_written_are_bounded(texts: list[str]) -> None:
    async def run() -> None:
        budget = log.Budget("s", lines_per_s=1e9, bytes_per_s=1000, burst_s=5)
        passed = [text for text in texts if budget.admits("a", text)]
        formatter = log.JsonFormatter()
        written = sum(
            len(formatter.format(logging.makeLogRecord({"msg": "m", **log.fields(stderr=text)}))) for text in passed
        )
        # Beyond U+FFFF a character takes twelve bytes of JSON, two escapes; the rate passes a little meanwhile.
        assert written <= 2 * 5000 + 2000

    asyncio.run(run())


def test_drops_are_said_at_most_once_a_second_and_none_is_forgotten() -> None:
    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(getattr(record, log.ATTRIBUTE))
            said.set()

    async def run() -> None:
        budget = log.Budget("s", lines_per_s=0.001, bytes_per_s=1e9, burst_s=1000)
        assert budget.admits("a")
        assert not any(budget.admits("a") for _ in range(500))
        assert said.is_set(), "the first is said at once"
        assert budget.admits("b")
        assert not any(budget.admits("b") for _ in range(3))
        said.clear()
        await asyncio.wait_for(said.wait(), 60)

    found: list[dict[str, object]] = []
    said = asyncio.Event()
    ear = Ear()
    logger = logging.getLogger("sandboxd.log")
    logger.addHandler(ear)
    try:
        asyncio.run(run())
    finally:
        logger.removeHandler(ear)
    assert [(line["count"], line["binding"]) for line in found] == [(1, "a"), (502, "a")]


def test_what_workers_write_to_stderr_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("sandboxd.worker")
    logger.addHandler(caplog.handler)

    async def run() -> None:
        pipe = StandardError(logging.getLogger("sandboxd.worker"), "stderr of workers")
        for _ in range(24 * 16):
            pipe.data_received(b"forged \x1b[2J line\n" * 4096)
        pipe.data_received(b"x" * 10_000_000)
        pipe.connection_lost(None)
        assert len(pipe.last_words()) <= 2000

    try:
        asyncio.run(run())
    finally:
        logger.removeHandler(caplog.handler)
    written = sum(len(record.getMessage()) for record in caplog.records if record.name == "sandboxd.worker")
    assert 0 < written < 1_000_000
    assert log.dropped_lines["stderr of workers", ""] > 1_000_000


def logged(handler: log.BufferedHandler, count: int, level: int = logging.INFO, text: str = "x", **values: str) -> None:
    """Emit lines of one place in the code."""
    for _ in range(count):
        handler.handle(
            logging.makeLogRecord(
                {"msg": text, "levelno": level, "pathname": "a.py", "lineno": 1, **log.fields(**values)}
            )
        )


@pytest.fixture
def written() -> Iterator[tuple[log.BufferedHandler, io.StringIO]]:
    stream = io.StringIO()
    handler = log.BufferedHandler(stream, capacity=1_000_000)
    handler.setFormatter(log.JsonFormatter())
    yield handler, stream
    handler.close()


def test_no_kind_of_line_is_without_end(written: tuple[log.BufferedHandler, io.StringIO]) -> None:
    handler, stream = written
    began = time.monotonic()
    logged(handler, 5_000)
    logged(handler, 3, binding="b")
    logged(handler, 5_000, logging.DEBUG, binding="debugging")
    took = time.monotonic() - began
    handler.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    of = Counter(line.get("binding", line["message"]) for line in lines)
    assert 0 < of["x"] <= log.KIND_LINES_PER_S * (log.BURST_S + took) + 1
    assert (of["b"], of["debugging"]) == (3, 5_000)
    said = [line for line in lines if line.get("event") == "lines_dropped"]
    assert {line["reason"] for line in said} == {log.KINDS}
    assert sum(line["count"] for line in said) == 5_000 - of["x"] == log.dropped_lines[log.KINDS, ""]
    assert len(said) <= took / log.SUMMARY_S + 2


def test_no_kind_of_line_takes_bytes_without_end(written: tuple[log.BufferedHandler, io.StringIO]) -> None:
    handler, stream = written
    began = time.monotonic()
    logged(handler, 1000, text="\x1b" * 8000)
    took = time.monotonic() - began
    handler.close()
    assert len(stream.getvalue()) <= log.KIND_BYTES_PER_S * (log.BURST_S + took) + 2 * 50_000


def test_kinds_that_callers_name_share_a_bucket() -> None:
    kinds = log.KindLimits()
    for number in range(2 * log.MAX_KINDS):
        kinds.admits(logging.makeLogRecord({"levelno": logging.INFO, **log.fields(binding=f"b{number}")}))
    assert repr(kinds) == f"<KindLimits of {log.MAX_KINDS + 1} kinds>"


def test_the_metric() -> None:
    metrics = Metrics(version="1")
    log.dropped_lines["stderr of guests", "a"] += 3
    log.dropped_lines["slow reader", ""] += 2
    text = exposed(metrics)[0].decode()
    assert 'sandboxd_log_lines_dropped_total{binding="a",source="stderr of guests"} 3.0' in text
    metrics.forget_binding("a")
    text = exposed(metrics)[0].decode()
    assert 'binding="a"' not in text
    assert 'sandboxd_log_lines_dropped_total{binding="",source="slow reader"} 2.0' in text

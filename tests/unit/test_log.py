"""Log lines: their form, what may be in them, and a stderr nobody reads."""

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from sandboxd.log import MAX_TEXT, BufferedHandler, JsonFormatter, TextFormatter, fields, setup


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    names = ("sandboxd", "hypercorn", "uvicorn", "asyncio", "py.warnings")
    before = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in names}
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    for name, (handlers, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.propagate = propagate
        logger.setLevel(levels[name])


def written(format: str, level: str = "info") -> tuple[BufferedHandler, io.StringIO]:
    stream = io.StringIO()
    return setup(level=level, format=format, stream=stream), stream


def test_json_lines() -> None:
    handler, stream = written("json")
    log = logging.getLogger("sandboxd.request")
    log.info("done %s", "é\n", extra=fields(binding="b", status=200))
    log.debug("not at this level")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("failed")
    logging.getLogger("uvicorn.error").warning("of a library")
    handler.close()
    first, second, third = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["message"] == "done é\n"
    assert (first["level"], first["logger"], first["binding"], first["status"]) == (
        "info",
        "sandboxd.request",
        "b",
        200,
    )
    assert first["time"].endswith("Z")
    assert "ValueError: why" in second["exception"]
    assert third["logger"] == "uvicorn.error"


def test_text_lines_cannot_steer_a_terminal() -> None:
    handler, stream = written("text")
    logging.getLogger("sandboxd").warning("a\x1b[31mb\nc", extra=fields(stderr="x\x1b]0;y", binding="plain"))
    handler.close()
    (line,) = stream.getvalue().splitlines()
    assert "\x1b" not in line
    assert "warning a\\x1b[31mb\\nc" in line
    assert "binding=plain" in line


def test_auto_is_json_where_there_is_no_terminal() -> None:
    handler, _ = written("auto")
    assert isinstance(handler.formatter, JsonFormatter)
    handler.close()


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(KeyError):
        fields(data="payload")


def test_long_values_are_cut() -> None:
    record = logging.makeLogRecord({"msg": "x" * 20_000, "levelname": "INFO", **fields(stderr="y" * 20_000)})
    line = json.loads(JsonFormatter().format(record))
    assert len(line["message"]) == len(line["stderr"]) == MAX_TEXT + 3
    assert len(TextFormatter().format(record)) < 2 * MAX_TEXT + 100


class Stuck(io.StringIO):
    """A stream whose reader sleeps until told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = threading.Event()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        assert self.go_on.wait(20)
        return super().write(text)


def test_a_slow_reader_costs_lines_not_time() -> None:
    stream = Stuck()
    handler = BufferedHandler(stream, capacity=3)
    handler.setFormatter(JsonFormatter())
    handler.emit(logging.makeLogRecord({"msg": "first", "levelname": "INFO"}))
    assert stream.writing.wait(20)
    for n in range(10):  # the writer is stuck: none of these may block
        handler.emit(logging.makeLogRecord({"msg": f"line {n}", "levelname": "INFO"}))
    assert repr(handler) == "<BufferedHandler holding 3 lines>"
    stream.go_on.set()
    handler.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines[:4]] == ["first", "line 0", "line 1", "line 2"]
    assert lines[4]["count"] == 7


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_closed_stderr_ends_nothing() -> None:
    handler = BufferedHandler(Broken())
    handler.setFormatter(JsonFormatter())
    handler.emit(logging.makeLogRecord({"msg": "x", "levelname": "INFO"}))
    handler.close()
    handler.emit(logging.makeLogRecord({"msg": "after the end", "levelname": "INFO"}))

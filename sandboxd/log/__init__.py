"""The log: each line is a JSON object, or readable text on a terminal.

Everything uses the standard `logging` module under the name `sandboxd`. The structured part of a record is
`extra=fields(...)`. Payloads, tokens, environment values and request headers are never logged: no code passes them, and
`fields` accepts only the names in FIELDS.

Writing never blocks the caller. Lines go to a bounded buffer, which a thread writes to the stream. If the reader of
stderr is so slow that the buffer is full, lines are dropped, and a later line says how many. Lines that guests or
callers can cause without end pass a `Budget` first, and whatever is logged is bounded by `KindLimits`.
"""

import json
import logging
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, TextIO

from sandboxd.errors import printable
from sandboxd.log.budget import (
    BURST_S,
    GUEST_BYTES_PER_S,
    GUEST_LINES_PER_S,
    KIND_BYTES_PER_S,
    KIND_LINES_PER_S,
    KINDS,
    LINE_BYTES,
    MAX_KINDS,
    SUMMARY_S,
    Budget,
    KindLimits,
    dropped_lines,
)
from sandboxd.log.fields import ATTRIBUTE, FIELDS, fields

__all__ = [
    "ATTRIBUTE",
    "BURST_S",
    "FIELDS",
    "GUEST_BYTES_PER_S",
    "GUEST_LINES_PER_S",
    "KINDS",
    "KIND_BYTES_PER_S",
    "KIND_LINES_PER_S",
    "LINE_BYTES",
    "MAX_KINDS",
    "Budget",
    "BufferedHandler",
    "JsonFormatter",
    "KindLimits",
    "TextFormatter",
    "dropped_lines",
    "fields",
    "level_now",
    "next_level",
    "set_level",
    "setup",
]

BUFFER_LINES: Final = 10_000
"""Lines kept for a slow reader of stderr."""
MAX_TEXT: Final = 8_192
"""Longest string value or message of a line, in characters. The rest is cut off."""

LIBRARY_LOGGERS: Final = ("hypercorn", "uvicorn", "asyncio", "py.warnings")
"""Loggers of libraries whose warnings and errors go to the same stream."""

_ROOT: Final = "sandboxd"


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[:MAX_TEXT] + "..."
    return value


def _of(record: logging.LogRecord) -> Mapping[str, object]:
    found: Mapping[str, object] = getattr(record, ATTRIBUTE, {})
    return found


def _message(record: logging.LogRecord) -> str:
    return str(_cut(record.getMessage()))


LEVELS: Final = ("debug", "info", "warning", "error")


def set_level(level: str) -> None:
    """Log from this severity on, one of LEVELS. The change itself is always logged."""
    logger = logging.getLogger(_ROOT)
    former = level_now()
    if former != level:
        logger.setLevel(min(logging.INFO, logger.level))
        logger.info("the log level is %s; it was %s", level, former, extra=fields(event="log_level"))
    logger.setLevel(level.upper())


def level_now() -> str:
    """Return the least severity that is logged."""
    return logging.getLevelName(logging.getLogger(_ROOT).getEffectiveLevel()).lower()


def next_level(steps: int) -> str:
    """Return the level so many steps less verbose than the present one; negative for more verbose."""
    at = LEVELS.index(level_now()) if level_now() in LEVELS else 1
    return LEVELS[min(max(at + steps, 0), len(LEVELS) - 1)]


class _Formatter(logging.Formatter):
    """Formats records.

    Parameters:
        everywhere: fields that every line has.
    """

    def __init__(self, everywhere: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._everywhere = everywhere or {}


class JsonFormatter(_Formatter):
    """Formats a record as one JSON object in ASCII, so that no name in it can confuse a log reader."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end."""
        seconds = int(record.created)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        line: dict[str, object] = {
            "time": f"{stamp}.{int((record.created - seconds) * 1000):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in (*self._everywhere.items(), *_of(record).items()):
            line[name] = _cut(value)
        if record.exc_info:
            line["exception"] = _cut("".join(traceback.format_exception(*record.exc_info)))
        return json.dumps(line, default=str)


class TextFormatter(_Formatter):
    """Formats a record for people. Control characters are escaped: a guest's stderr cannot control a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its end. An exception follows on further lines."""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        shown = {**self._everywhere, **_of(record)}
        rest = "".join(f" {name}={_shown(value)}" for name, value in shown.items())
        text = f"{stamp} {record.levelname.lower():7} {printable(_message(record))}{rest}"
        if record.exc_info:
            lines = "".join(traceback.format_exception(*record.exc_info)).rstrip().split("\n")
            text += "\n" + "\n".join(map(printable, lines))
        return text


def _shown(value: object) -> str:
    text = str(_cut(value))
    return text if text.isprintable() and text and " " not in text else json.dumps(text)


class BufferedHandler(logging.Handler):
    """Formats records in the caller's thread, and writes the lines in a thread of its own.

    Parameters:
        stream: receives the lines.
        capacity: most lines that are held while the stream accepts none.
        shared: whether other processes write to the same stream. Then no line may be split by one of theirs.
    """

    def __init__(self, stream: TextIO, capacity: int = BUFFER_LINES, *, shared: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._capacity = capacity
        self._shared = shared
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._kinds = KindLimits()
        self._too_many = 0
        """Lines left out because there are too many of their kind, and not said yet."""
        self._said = 0.0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<BufferedHandler holding {len(self._lines)} lines>"

    def emit(self, record: logging.LogRecord) -> None:
        """Format a record and put it in the buffer. Drop it if that is full, or if there are too many of its kind."""
        bucket = self._kinds.admits(record)
        if bucket is None:
            with self._wake:
                self._too_many += 1
                dropped_lines[KINDS, ""] += 1
                self._wake.notify()
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not end a request
            self.handleError(record)
            return
        self._kinds.take(bucket, len(line))
        with self._wake:
            if len(self._lines) >= self._capacity:
                self._dropped += 1
                dropped_lines["slow reader", ""] += 1
                return
            self._lines.append(line)
            self._wake.notify()

    def _take(self) -> list[str]:
        with self._wake:
            while not self._lines and not self._closing:
                due_s = self._said + SUMMARY_S - time.monotonic() if self._too_many else None
                if due_s is not None and due_s <= 0:
                    break
                self._wake.wait(due_s)
            taken = list(self._lines)
            self._lines.clear()
            if self._dropped:
                lost, self._dropped = self._dropped, 0
                taken.append(self._said_of("log lines were dropped because stderr was too slow", count=lost))
            now = time.monotonic()
            if self._too_many and (self._closing or now - self._said >= SUMMARY_S):
                lost, self._too_many, self._said = self._too_many, 0, now
                text = "lines were left out of the log: too many of one kind in too short a time"
                taken.append(self._said_of(text, event="lines_dropped", count=lost, reason=KINDS))
            return taken

    def _said_of(self, text: str, **values: object) -> str:
        record = {"name": "sandboxd.log", "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
        return self.format(logging.makeLogRecord({**record, **fields(**values)}))

    def _run(self) -> None:
        while True:
            taken = self._take()
            if not taken:
                return
            try:
                for text in _portions(taken) if self._shared else ("\n".join(taken) + "\n",):
                    self._stream.write(text)
                    self._stream.flush()
            except (OSError, ValueError):
                # Nobody reads stderr any more. Serving goes on. If it is read again, a line says how many are lost.
                with self._wake:
                    self._dropped += len(taken)

    def close(self) -> None:
        """Write the lines that are left, and wait for the stream for at most 2 seconds."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2)
        super().close()


def _portions(lines: list[str]) -> Iterator[str]:
    """Yield whole lines in portions that a pipe takes undivided, up to PIPE_BUF bytes (pipe(7)).

    A line that is longer by itself is a portion of its own.
    """
    portion, size = "", 0
    for line in lines:
        bytes_more = len(line.encode("utf-8", "replace")) + 1
        if portion and size + bytes_more > select.PIPE_BUF:
            yield portion
            portion, size = "", 0
        portion += line + "\n"
        size += bytes_more
    if portion:
        yield portion


def setup(
    *, level: str = "info", format: str = "auto", stream: TextIO | None = None, cell: int | None = None
) -> BufferedHandler:
    """Send the server's log to a stream and return the handler. Call it once at start; close the handler at the end.

    Parameters:
        level: debug, info, warning or error.
        format: json, text, or auto, which is text if the stream is a terminal.
        stream: the stream; None for stderr.
        cell: the number of this process's cell, which every line gets; None if there is only one cell.
    """
    stream = stream or sys.stderr
    handler = BufferedHandler(stream, shared=cell is not None)
    everywhere = {} if cell is None else {"cell": cell}
    text = format == "text" or (format == "auto" and stream.isatty())
    handler.setFormatter(TextFormatter(everywhere) if text else JsonFormatter(everywhere))
    for name in ("sandboxd", *LIBRARY_LOGGERS):
        logger = logging.getLogger(name)
        for former in list(logger.handlers):
            logger.removeHandler(former)
            former.close()
        logger.addHandler(handler)
        logger.setLevel(level.upper() if name == "sandboxd" else logging.WARNING)
        logger.propagate = False
    return handler

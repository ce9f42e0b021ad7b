"""Log lines: one JSON object each, or readable text on a terminal.

Everything goes through the standard `logging` module under the name `sandboxd`. A record's structured part is
`extra=fields(...)`. Payloads, tokens, environment values and request headers are never logged: nobody passes them,
and `fields` accepts only the names in FIELDS.

Writing never blocks the caller: lines go to a bounded buffer that a thread writes to the stream. When the reader of
stderr is so slow that the buffer is full, lines are dropped; a line that says how many follows the next that fit.
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
from typing import Any, Final, TextIO

BUFFER_LINES: Final = 10_000
"""Lines kept for a slow reader of stderr."""
MAX_TEXT: Final = 8_192
"""Longest string value or message of a line, in characters; the rest is cut off."""

FIELDS: Final = frozenset(
    (
        "binding",
        "outcome",
        "request_id",
        "trace_id",
        "status",
        "error_code",
        "protocol",
        "duration_ms",
        "queue_ms",
        "instantiate_ms",
        "guest_ms",
        "exit_code",
        "memory_bytes",
        "stdin_bytes",
        "stdout_bytes",
        "stderr_bytes",
        "outbound_requests",
        "reason",
        "detail",
        "stderr",
        "path",
        "line",
        "url",
        "address",
        "worker_pid",
        "worker_serial",
        "workers",
        "count",
        "engine",
        "event",
        "generation",
        "cell",
    )
)
"""Names a line may carry beside time, level, logger and message."""

FOREIGN: Final = ("hypercorn", "uvicorn", "asyncio", "py.warnings")
"""Loggers of libraries whose warnings and errors go the same way."""

_ATTRIBUTE: Final = "sandboxd_fields"


def fields(**values: object) -> Mapping[str, Any]:
    """The `extra` argument of a logging call.

    Raises:
        KeyError: a name is not in FIELDS.
    """
    for name in values:
        if name not in FIELDS:
            raise KeyError(name)
    return {_ATTRIBUTE: values}


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return value[:MAX_TEXT] + "..."
    return value


def _of(record: logging.LogRecord) -> Mapping[str, object]:
    found: Mapping[str, object] = getattr(record, _ATTRIBUTE, {})
    return found


def _message(record: logging.LogRecord) -> str:
    return str(_cut(record.getMessage()))


class JsonFormatter(logging.Formatter):
    """One JSON object per line, ASCII only, so that no log reader can be confused by what a name contains.

    Parameters:
        everywhere: fields of every line.
    """

    def __init__(self, everywhere: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._everywhere = everywhere or {}

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end."""
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


class TextFormatter(logging.Formatter):
    """A line for people. Control characters are escaped, so that a guest's stderr cannot steer a terminal.

    Parameters:
        everywhere: as of JsonFormatter.
    """

    def __init__(self, everywhere: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._everywhere = everywhere or {}

    def format(self, record: logging.LogRecord) -> str:
        """The line without its end; exceptions follow on further lines."""
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        shown = {**self._everywhere, **_of(record)}
        rest = "".join(f" {name}={_shown(value)}" for name, value in shown.items())
        text = f"{stamp} {record.levelname.lower():7} {_printable(_message(record))}{rest}"
        if record.exc_info:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return text


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shown(value: object) -> str:
    text = str(_cut(value))
    return text if text.isprintable() and text and " " not in text else json.dumps(text)


class BufferedHandler(logging.Handler):
    """Formats in the caller's thread, writes in its own.

    Parameters:
        stream: where lines go.
        capacity: lines kept while the stream does not take them.
        shared: other processes write to the same stream; no line is to be torn by one of theirs.
    """

    def __init__(self, stream: TextIO, capacity: int = BUFFER_LINES, *, shared: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._capacity = capacity
        self._shared = shared
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<BufferedHandler holding {len(self._lines)} lines>"

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; drop it if the buffer is full."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not end a request
            self.handleError(record)
            return
        with self._wake:
            if len(self._lines) >= self._capacity:
                self._dropped += 1
                return
            self._lines.append(line)
            self._wake.notify()

    def _take(self) -> list[str]:
        with self._wake:
            while not self._lines and not self._closing:
                self._wake.wait()
            taken = list(self._lines)
            self._lines.clear()
            if self._dropped:
                lost, self._dropped = self._dropped, 0
                record = logging.makeLogRecord(
                    {
                        "name": "sandboxd.log",
                        "levelno": logging.WARNING,
                        "levelname": "WARNING",
                        "msg": "log lines were dropped because stderr was too slow",
                        **fields(count=lost),
                    }
                )
                taken.append(self.format(record))
            return taken

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
                # Nobody reads stderr any more. Serving goes on; should the stream come back, it is told what it missed.
                with self._wake:
                    self._dropped += len(taken)

    def close(self) -> None:
        """Write what is left, waiting at most 2 seconds for the stream."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2)
        super().close()


def _portions(lines: list[str]) -> Iterator[str]:
    """Whole lines in portions that a pipe takes undivided (pipe(7): up to PIPE_BUF bytes), where they are not longer
    by themselves."""
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
    """Send the server's logs to a stream. Call once, at start; close the handler at the end.

    Parameters:
        level: debug, info, warning or error.
        format: json, text, or auto: text if the stream is a terminal.
        stream: stderr if None.
        cell: number of this process's cell, for every line; None where there is only one.
    """
    stream = stream or sys.stderr
    handler = BufferedHandler(stream, shared=cell is not None)
    everywhere = {} if cell is None else {"cell": cell}
    text = format == "text" or (format == "auto" and stream.isatty())
    handler.setFormatter(TextFormatter(everywhere) if text else JsonFormatter(everywhere))
    for name in ("sandboxd", *FOREIGN):
        logger = logging.getLogger(name)
        for former in list(logger.handlers):
            logger.removeHandler(former)
            former.close()
        logger.addHandler(handler)
        logger.setLevel(level.upper() if name == "sandboxd" else logging.WARNING)
        logger.propagate = False
    return handler

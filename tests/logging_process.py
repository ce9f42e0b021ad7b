"""A child process whose log a test waits on, and which is always ended."""

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tests.waiting import BOUND_S

LOG_ENDED = {"event": "log ended"}
"""Stands behind the last line of a log that has ended."""


class LoggingProcess:
    """A process that logs lines of JSON.

    Parameters:
        process: it, with a pipe for the log.
        stream: which one: `stdout` or `stderr`.
        raw: the key of a line that is no JSON.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", *, stream: str, raw: str) -> None:
        self.process = process
        self._lines: list[dict[str, Any]] = []
        self._log = getattr(process, stream)
        self._raw = raw
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far; all of it once the process is over, for what it wrote last is read later."""
        if self.process.poll() is not None and threading.current_thread() is not self._reader:
            self._reader.join(BOUND_S)
        return self._lines

    def _read(self) -> None:
        for line in self._log:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {self._raw: line.decode(errors="replace").rstrip("\n")}
            self._append(entry)
        self._append(LOG_ENDED)

    def _append(self, entry: dict[str, Any]) -> None:
        with self._changed:
            self._lines.append(entry)
            self._changed.notify_all()

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], *, timeout_s: float = BOUND_S, since: int = 0
    ) -> dict[str, Any]:
        """The first log line, from number `since` on, that is wanted.

        Raises:
            AssertionError: it did not come in time, or the log ended without it.
        """

        def found() -> dict[str, Any] | None:
            return next((line for line in self._lines[since:] if wanted(line)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or (self._lines and self._lines[-1] is LOG_ENDED), timeout_s)
            line = found()
        assert line is not None, f"not logged: {self.text()}"
        return line

    def wait_for_end(self) -> None:
        """Wait until nobody can write to the log any more."""
        self.wait_for(lambda line: line is LOG_ENDED)

    def text(self) -> str:
        """Return the whole log, for an assertion's message."""
        return "\n".join(json.dumps(line) for line in self.lines)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(BOUND_S)
        self._reader.join(BOUND_S)
        self._log.close()

"""Reads the standard error of a process that the front has started."""

import asyncio
import contextlib
import logging

from sandboxd.errors import one_line
from sandboxd.log import Budget

MAX_LINE = 8192
LAST_WORDS = 1000
"""The number of characters at the end of standard error that an error message quotes."""
LAST_WORDS_WAIT_S = 0.5
"""The longest wait for the last output of a process that has died."""


class StandardError(asyncio.Protocol):
    """Logs the standard error of a process and of those that it forks (tracebacks, fatal signals), line by line.

    Parameters:
        log: receives the lines.
        name: names the lines in the message that counts those left out.
    """

    def __init__(self, log: logging.Logger, name: str) -> None:
        self._log_to = log
        self._rest = b""
        self._end = b""
        self._budget = Budget(name)
        self.closed = asyncio.Event()

    def last_words(self) -> str:
        """Return the end of the output so far as one printable line; empty if there was none."""
        lines = self._end.decode("utf-8", "replace").split("\n")
        return one_line(" | ".join(line.strip() for line in lines if line.strip()))[-LAST_WORDS:]

    async def await_last_words(self) -> str:
        """Wait a little for the last output of a process that has died. Return it as the end of a message."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.closed.wait(), LAST_WORDS_WAIT_S)
        words = self.last_words()
        return f"; its last words: {words}" if words else "; it wrote nothing to standard error"

    def data_received(self, data: bytes) -> None:
        self._end = (self._end + data[-LAST_WORDS:])[-LAST_WORDS:]
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        for number, line in enumerate(lines):
            if not self._log(line):
                # The other lines of this read are only counted: checking megabytes would hold up the event loop.
                self._budget.drop("", len(lines) - number - 1)
                return

    def connection_lost(self, exc: Exception | None) -> None:
        self._log(self._rest)
        self.closed.set()

    def _log(self, line: bytes) -> bool:
        """Log a line. Return False if it was left out."""
        text = line[:MAX_LINE].decode("utf-8", "replace")
        if not text:
            return True
        if not self._budget.admits("", text):
            return False
        self._log_to.error("%s", text)
        return True

"""Prints what a guest writes while it runs, for `sandboxd run`."""

import os
import select
import threading
from itertools import groupby
from typing import Final, TextIO

from hostfuncs.wasip1.output import Echo
from sandboxd.commands.terminal import TerminalText

_OUT: Final = "stdout"
_ERR: Final = "stderr"


class OutputEnded(BaseException):
    """Nobody takes what the guest writes any more. No `Exception`, so that it leaves the run."""


class Printer:
    """Writes what a guest writes, in its order.

    What goes to a terminal is made safe for it. A thread writes, so that a reader who takes his time, a pager perhaps,
    takes none of the guest's: its deadline means the same as on a server.

    Parameters:
        stdout, stderr: where to; None for a stream that is closed, which gets nothing.
        room: how much may wait to be written, in bytes. A guest that writes more waits.
    """

    def __init__(self, stdout: TextIO | None, stderr: TextIO | None, room: int) -> None:
        self.echo = Echo(lambda data: self._put(_OUT, data), lambda data: self._put(_ERR, data))
        """Is given the guest's output. It raises OutputEnded once writing has failed."""
        self._fds = {_OUT: _descriptor(stdout), _ERR: _descriptor(stderr)}
        streams = {_OUT: stdout, _ERR: stderr}
        self._safe = {
            name: TerminalText() for name, stream in streams.items() if stream is not None and stream.isatty()
        }
        self._room = room
        self._waiting: list[tuple[str, bytes]] = []
        self._held = 0
        self._over = False
        self._failed: tuple[str, OSError] | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="printer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Printer {self._held} bytes wait, failed={self._failed!r}>"

    def close(self) -> tuple[str, OSError] | None:
        """Wait until everything is written.

        Returns:
            the stream that could not be written, and why; None if all went well.
        """
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()
        return self._failed

    def _put(self, stream: str, data: bytes) -> None:
        with self._changed:
            while self._held > self._room and self._failed is None:
                self._changed.wait()
            if self._failed is not None:
                raise OutputEnded
            self._waiting.append((stream, data))
            self._held += len(data)
            self._changed.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._over:
                    self._changed.wait()
                if not self._waiting:
                    break
                pieces, self._waiting = self._waiting, []
            for stream, found in groupby(pieces, key=lambda piece: piece[0]):
                data = b"".join(data for _, data in found)
                safe = self._safe.get(stream)
                if not self._written(stream, data if safe is None else safe.feed(data)):
                    return
            with self._changed:
                self._held -= sum(len(data) for _, data in pieces)
                self._changed.notify_all()
        for stream, safe in self._safe.items():
            if not self._written(stream, safe.end()):
                return

    def _written(self, stream: str, data: bytes) -> bool:
        """Write to a stream. Return whether that went well."""
        try:
            _write(self._fds[stream], data)
        except OSError as error:
            with self._changed:
                self._failed = stream, error
                self._changed.notify_all()
            return False
        return True


def _descriptor(stream: TextIO | None) -> int | None:
    if stream is None:
        return None  # closed by whoever started this process; another file may have its number by now
    stream.flush()
    return stream.fileno()


def _write(fd: int | None, data: bytes) -> None:
    if fd is None:
        return
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # another process has made the terminal, which both share, one that does not block
            ready = select.poll()
            ready.register(fd, select.POLLOUT)
            ready.poll()

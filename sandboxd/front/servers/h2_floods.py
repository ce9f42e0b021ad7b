"""Counts what an HTTP/2 caller makes the server do against what it asks for.

A frame of 9 bytes costs the server a tenth of a millisecond, and the answers to some are frames again; none of that is
limited by flow control. So every connection has credit for frames that ask for nothing. It grows with time, with
requests that were answered and with data that was sent; who overdraws it is told to calm down and closed.

Source: RFC 9113, 10.5 (denial-of-service considerations) and 7 (ENHANCE_YOUR_CALM); CVE-2019-9511 to -9518 and
CVE-2023-44487 are the floods.
"""

import time
from collections.abc import Iterator
from typing import Final

DATA: Final = 0x0
HEADERS: Final = 0x1
RST_STREAM: Final = 0x3
_END_STREAM: Final = 0x1
_PADDED: Final = 0x8
_FRAME_HEAD_BYTES: Final = 9
_PREFACE_BYTES: Final = 24
_TINY_BYTES: Final = 16
_PADDING_BYTES: Final = 256

CREDIT: Final = 1000.0
"""The most, and what a new connection has."""
PER_SECOND: Final = 50.0
PER_ANSWER: Final = 6.0
PER_BYTE_SENT: Final = 1 / 2048
"""Callers return window for what they read, for the stream and for the connection, often with each frame of 16 KiB."""
BATCH: Final = 64
"""So many frames are handled before the event loop has its turn again."""


def price(kind: int, flags: int, length: int) -> float:
    """Return the cost of a frame to its sender.

    Parameters:
        kind: the frame's type.
        flags: its flags.
        length: of its payload. Bytes.
    """
    if kind == DATA:
        if flags & _END_STREAM:
            return 0.0
        if length == 0 or (flags & _PADDED and length <= _PADDING_BYTES):
            return 1.0
        return 0.25 if length < _TINY_BYTES else 0.0
    if kind == RST_STREAM:
        return 4.0  # with its request, not yet answered: less than the answer would have earned
    return 1.0


class Credit:
    """The account of one connection.

    Parameters:
        now: CLOCK_MONOTONIC. Seconds.
    """

    __slots__ = ("_left", "_then")

    def __init__(self, now: float | None = None) -> None:
        self._left = CREDIT
        self._then = time.monotonic() if now is None else now

    def __repr__(self) -> str:
        return f"<Credit {self._left:.0f}>"

    def earn(self, amount: float) -> None:
        """Work was done for the caller."""
        self._left = min(CREDIT, self._left + amount)

    def spend(self, amount: float, now: float | None = None) -> bool:
        """The caller sent frames.

        Returns:
            False: the account is overdrawn.
        """
        now = time.monotonic() if now is None else now
        self._left = min(CREDIT, self._left + (now - self._then) * PER_SECOND) - amount
        self._then = now
        return self._left >= 0


class Frames:
    """Finds the frames in what a connection receives, without parsing them.

    Parameters:
        preface: whether the client's preface comes first.
    """

    def __init__(self, *, preface: bool = True) -> None:
        self._skip = _PREFACE_BYTES if preface else 0
        """Bytes up to the next frame's head."""
        self._head = b""
        """A head of which the rest has not come."""

    def __repr__(self) -> str:
        return f"<Frames, the next after {self._skip} bytes>"

    def batches(self, data: bytes) -> Iterator[tuple[bytes, float]]:
        """Cut what was received into pieces of at most `BATCH` frames.

        Yields:
            a piece, and what the frames that begin in it cost.
        """
        begin = at = 0
        frames = 0
        cost = 0.0
        while True:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
            missing = _FRAME_HEAD_BYTES - len(self._head)
            if len(data) - at < missing:
                self._head += data[at:]
                break
            if frames == BATCH:
                yield data[begin:at], cost
                begin, frames, cost = at, 0, 0.0
            head = self._head + data[at : at + missing]
            self._head = b""
            at += missing
            length = int.from_bytes(head[:3], "big")
            cost += price(head[3], head[4], length)
            frames += 1
            self._skip = length
        if begin < len(data):
            yield data[begin:], cost

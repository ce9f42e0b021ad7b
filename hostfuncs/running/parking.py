"""Park a run: let a guest run up to its first use of input, and go on when there is input.

A process with a parked guest can be forked. Each copy goes on with an input of its own in a few milliseconds, while the
guest would otherwise have to start again. The guest needs no change. It is parked inside the host function that it
called: `fd_read` or `poll_oneoff` on stdin, the same of `wasi:io` on `wasi:cli/stdin`, or its first outbound request. A
core module may have a function that is called before `_start`. Its run is parked after that, if it was not before.

The objects here replace the run's input, so a run that is not parked has no cost from them. A runner that was parked
once is not used for another run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from hostfuncs.wasip1 import Strings


class ParkPoint(StrEnum):
    """The place at which a guest was parked."""

    STDIN = "stdin"
    """It read, or polled, standard input."""
    REQUEST = "request"
    """It made an outbound request."""
    READY = "ready"
    """The function that comes before `_start` has returned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """The input with which a parked run goes on."""

    stdin: bytes
    """All of standard input."""
    env: tuple[tuple[bytes, bytes], ...] = ()
    """All variables that follow those of every run. A guest that read its environment before it was parked keeps that
    one."""
    deadline_ns: int
    """CLOCK_MONOTONIC instant by which the run must be over."""
    ends_process: bool = False
    """Whether the process ends with the run. The memory of the guest is then left to the kernel: to clean it for
    another run takes up to milliseconds, for which the caller would wait."""


Wait = Callable[[ParkPoint], Input]
"""Called once, when the guest is to be parked. It returns when there is input, perhaps in a copy of the process. It may
raise a `GuestEnded` to end the guest."""


class Gate:
    """The point that a run passes once, with its input.

    Parameters:
        wait: see Wait.
        suspend: called before `wait`.
        resume: called with the input, after `wait`.
    """

    __slots__ = ("_resume", "_suspend", "_wait", "given")

    def __init__(self, wait: Wait, *, suspend: Callable[[], None], resume: Callable[[Input], None]) -> None:
        self._wait = wait
        self._suspend = suspend
        self._resume = resume
        self.given: Input | None = None
        """The input, once the run has passed."""

    def __repr__(self) -> str:
        return f"<Gate {'closed' if self.given is None else 'passed'}>"

    def arrive(self, at: ParkPoint) -> Input:
        """Park here, unless the run has passed already, and return the input."""
        if self.given is None:
            self._suspend()
            given = self._wait(at)
            self.given = given
            self._resume(given)
        return self.given


class AwaitedBytes:
    """Stands in for the stdin of a core guest: its first use parks the run.

    It has the part of `memoryview` that `hostfuncs.wasip1` uses.
    """

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __repr__(self) -> str:
        return f"<AwaitedBytes {self._gate!r}>"

    def _view(self) -> memoryview:
        return memoryview(self._gate.arrive(ParkPoint.STDIN).stdin)

    def __len__(self) -> int:
        return len(self._view())

    def __getitem__(self, part: slice) -> memoryview:
        return self._view()[part]


class AwaitedStrings(Strings):
    """The environment of a guest that is not parked yet. It records whether the guest has read it.

    A guest that reads the size of its environment before it is parked, and the environment afterwards, must not get a
    longer one.

    Parameters:
        strings: the environment.
    """

    __slots__ = ("_strings", "asked")

    def __init__(self, strings: Strings) -> None:
        self._strings = strings
        self.asked = False
        """Whether the guest has read it, or its size."""

    @property
    def offsets(self) -> tuple[int, ...]:
        """See Strings."""
        self.asked = True
        return self._strings.offsets

    @property
    def block(self) -> bytes:  # type: ignore[override]
        """See Strings."""
        self.asked = True
        return self._strings.block

    def pointers(self, base: int) -> bytes:
        """See Strings."""
        self.asked = True
        return self._strings.pointers(base)


class AwaitedSource:
    """Stands in for the stdin of a component: its first use parks the run. See `hostfuncs.wasip2.Source`."""

    __slots__ = ("_at", "_gate")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._at = 0

    def __repr__(self) -> str:
        return f"<AwaitedSource {self._gate!r}>"

    def ready(self) -> bool:
        """See Source."""
        self._gate.arrive(ParkPoint.STDIN)
        return True

    def read(self, size: int) -> bytes | None:
        """See Source."""
        stdin = self._gate.arrive(ParkPoint.STDIN).stdin
        if self._at >= len(stdin):
            return None
        piece = stdin[self._at : self._at + size]
        self._at += len(piece)
        return piece

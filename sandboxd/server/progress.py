"""The progress display of downloads and compilations."""

import asyncio
import time
from typing import Final, TextIO

from sandboxd.errors import one_line
from sandboxd.modules.prepare import Phase, Progress

TICK_S: Final = 0.25
"""The interval at which the line on a terminal is written anew, so that a long compilation is seen to go on."""
_ENDED: Final = (Phase.READY, Phase.FAILED)


class ProgressLine:
    """Shows downloads and compilations: on a terminal one line that is rewritten, elsewhere a plain line per step.

    Parameters:
        stream: usually stderr.
        failures: whether failures are shown too; whoever tells of them otherwise leaves them out.
    """

    def __init__(self, stream: TextIO, *, failures: bool = True) -> None:
        self._failures = failures
        self._stream = stream
        self._terminal = stream.isatty()
        self._last: dict[str, Phase] = {}
        self._going: dict[str, tuple[Progress, float]] = {}
        """The guests that are not ready yet, with the instant of their last step, the latest last."""
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, progress: Progress) -> None:
        """Show one step. Call it on a running event loop."""
        if self._terminal:
            self._going.pop(progress.binding, None)
            if progress.phase is Phase.FAILED and not self._failures:
                self._write("")
            elif progress.phase in _ENDED:
                self._write(text_of(progress), end="\n")
            else:
                self._going[progress.binding] = (progress, time.monotonic())
            self._tick()
        elif self._last.get(progress.binding) != progress.phase:
            self._last[progress.binding] = progress.phase
            if progress.phase is not Phase.DOWNLOAD and (self._failures or progress.phase is not Phase.FAILED):
                print(text_of(progress), file=self._stream)

    def _tick(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._going:
            return
        progress, told = next(reversed(self._going.values()))
        others = f" (and {len(self._going) - 1} more)" if len(self._going) > 1 else ""
        # Of a download only what was told is known. A compilation tells nothing: the time that passes is all there is.
        passed = time.monotonic() - told if progress.phase is Phase.COMPILE else 0.0
        self._write(text_of(progress, passed) + others)
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _write(self, text: str, end: str = "") -> None:
        self._stream.write(f"\r\x1b[2K{text}{end}")
        self._stream.flush()


def text_of(progress: Progress, passed_s: float = 0.0) -> str:
    """Return a step as one printable line.

    Parameters:
        progress: the step.
        passed_s: how long ago it was told. Seconds.
    """
    seconds = progress.seconds + passed_s
    size = _size(progress, seconds) if progress.phase is Phase.DOWNLOAD else ""
    if progress.phase is Phase.COMPILE and progress.bytes:
        size = f" {progress.bytes / 2**20:.1f} MiB"
    detail = f" {progress.detail}" if progress.detail else ""
    return one_line(f"{progress.binding}: {progress.phase}{size}{detail} {seconds:.1f} s")


def _size(progress: Progress, seconds: float) -> str:
    """Return how much of a download has come: of how much, at which rate, and how long the rest takes."""
    done, total = progress.bytes, progress.total_bytes
    text = f" {done / 2**20:.1f}"
    if total:
        text += f" of {total / 2**20:.1f} MiB, {100 * min(done, total) // total} %"
    else:
        text += " MiB"
    rate = done / seconds if seconds > 0 else 0.0
    if rate:
        text += f", {rate / 2**20:.1f} MiB/s"
        if total > done:
            text += f", {(total - done) / rate:.0f} s left,"
    return text

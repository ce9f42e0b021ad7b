"""A task that runs inline: what its coroutine waits for resumes it at once, without a turn of the event loop.

The event loop resumes an asyncio task in its next pass. That costs a pass, a handle and a context switch for every
piece that arrives. An exchange over HTTP/1.1 waits mostly for its stream, and can go on within the call that brings the
bytes. What else it waits for, such as a connection being made or room in a body, are ordinary asyncio futures.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Suspension:
    """A point at which one inline task waits to be resumed. It can be used again."""

    __slots__ = ("_resume",)

    def __init__(self) -> None:
        self._resume: Callable[[], None] | None = None

    def __await__(self) -> Generator["Suspension", None, None]:
        yield self

    def wake(self) -> None:
        """Resume the task that waits here, if there is one. Return when it waits again or has ended."""
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()

    def take(self, resume: Callable[[], None] | None) -> None:
        """Called by the task: it waits here, or no longer (None)."""
        self._resume = resume


class InlineTask:
    """Drives one coroutine to its end. `done` and `cancel` mean what they mean for `asyncio.Task`.

    The coroutine must not raise anything but CancelledError. It runs outside of any task and, up to its first await,
    possibly outside of the running loop; what needs either is to be put into a task, which can be awaited.

    Parameters:
        loop: for turns it gives up, and the loop of the futures it awaits.
        coroutine: not started yet.
    """

    __slots__ = ("_cancelled", "_coroutine", "_done", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, None, None]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._waiting: Suspension | asyncio.Future[Any] | None = None
        self._cancelled = False
        self._done = False

    def __repr__(self) -> str:
        return f"<InlineTask {'done' if self._done else 'waiting' if self._waiting is not None else 'under way'}>"

    def begin(self) -> None:
        """Run to the first thing that has to be waited for."""
        self._go(None)

    def done(self) -> bool:
        """Return whether the coroutine has ended."""
        return self._done

    def cancel(self) -> bool:
        """Have CancelledError raised where the coroutine waits, now or when it next does; False once it has ended."""
        if self._done:
            return False
        waiting = self._waiting
        if isinstance(waiting, Suspension):
            waiting.take(None)
            self._go(asyncio.CancelledError())
        elif waiting is None or not waiting.cancel():
            # Under way, or what it waited for is there and its turn to come.
            self._cancelled = True
        return True

    def _resume(self) -> None:
        self._go(None)

    def _arrived(self, _: asyncio.Future[Any]) -> None:
        self._go(None)

    def _go(self, failure: BaseException | None) -> None:
        self._waiting = None
        if self._cancelled:
            self._cancelled = False
            failure = asyncio.CancelledError()
        try:
            waiting = self._coroutine.send(None) if failure is None else self._coroutine.throw(failure)
        except (StopIteration, asyncio.CancelledError):
            self._done = True
            return
        except BaseException:
            self._done = True
            raise
        if waiting is None:
            # asyncio.sleep(0)
            self._loop.call_soon(self._resume)
            return
        self._waiting = waiting
        if isinstance(waiting, Suspension):
            waiting.take(self._resume)
        else:
            waiting._asyncio_future_blocking = False
            waiting.add_done_callback(self._arrived)
        if self._cancelled:
            self._cancelled = False
            self.cancel()

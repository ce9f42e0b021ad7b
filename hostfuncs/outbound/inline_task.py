"""A task that runs inline: an event resumes its coroutine at once, without a pass of the event loop.

The event loop resumes an asyncio task in its next pass. That costs a pass, a handle and a context switch for every
piece that arrives. An exchange over HTTP/1.1 waits mostly for its stream, and can go on within the call that brings the
bytes. For other events, such as a new connection or room in a body, it waits with ordinary asyncio futures.
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
        """Resume the task that waits here, if there is one. This returns when the task waits again or has ended."""
        resume, self._resume = self._resume, None
        if resume is not None:
            resume()

    def take(self, resume: Callable[[], None] | None) -> None:
        """Set the function that resumes the waiting task; None if no task waits. The task calls this."""
        self._resume = resume


class InlineTask:
    """Runs one coroutine to its end. `done` and `cancel` are those of `asyncio.Task`.

    The coroutine must not raise anything but CancelledError. It runs outside any task, and up to its first await
    possibly outside a running loop. Code that needs either must be in a task, which the coroutine can await.

    Parameters:
        loop: the event loop of the futures that it awaits.
        coroutine: the coroutine, not started yet.
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
        """Run the coroutine until it waits for the first time."""
        self._go(None)

    def done(self) -> bool:
        """Return whether the coroutine has ended."""
        return self._done

    def cancel(self) -> bool:
        """Raise CancelledError where the coroutine waits, now or the next time. Return False if it has ended."""
        if self._done:
            return False
        waiting = self._waiting
        if isinstance(waiting, Suspension):
            waiting.take(None)
            self._go(asyncio.CancelledError())
        elif waiting is None or not waiting.cancel():
            # It is running, or its future is done and it will be resumed.
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

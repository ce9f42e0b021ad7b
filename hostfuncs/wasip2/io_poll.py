"""wasi:io/poll: pollables, and waiting for them."""

from collections.abc import Callable
from typing import Protocol

from hostfuncs.ending import HostTrap
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import BOOL, U32, Borrow, List


class Stoppable(Protocol):
    """A writer that may make the guest wait for ever. See `hostfuncs.wasip2.io_streams.Writer`."""

    def stuck(self) -> bool:
        """Return whether only the guest could make the writer ready."""
        ...

    def give_up(self) -> None:
        """Break the stream, because the guest waits while it is `stuck`."""
        ...


@resource("pollable")
class Pollable(Entry):
    """An event that a guest can wait for.

    Parameters:
        ready: return whether the event has happened. Must be cheap; may be called any number of times.
        due_ns: CLOCK_MONOTONIC instant at which the pollable becomes ready by itself; None if only an event makes it
            ready.
        parent: the resource that the guest subscribed to.
        writer: the stream's writer, if the guest waits for room in an output stream.
    """

    __slots__ = ("children", "due_ns", "parent", "ready", "writer")

    def __init__(
        self,
        ready: Callable[[], bool],
        due_ns: int | None = None,
        parent: Entry | None = None,
        writer: Stoppable | None = None,
    ) -> None:
        self.ready = ready
        self.writer = writer
        self.due_ns = due_ns
        self.parent = parent
        self.children = 0


INTERFACE = Interface("wasi:io/poll", {"pollable": Pollable})


def _give_up_if_stuck(pollables: list[Pollable]) -> None:
    """Break the output streams that are waited for, if only the guest itself could make any of them ready."""
    writers = [p.writer for p in pollables if p.writer is not None]
    if len(writers) == len(pollables) and all(writer.stuck() for writer in writers):
        for writer in writers:
            writer.give_up()


@INTERFACE.function("[method]pollable.ready", Borrow(Pollable), result=BOOL)
def ready(host: Host, pollable: Pollable) -> bool:
    """Return whether `block` would return at once.

    If not, outbound requests make progress first, so that a guest that calls this in a loop gets its answer.
    """
    if not pollable.ready():
        host.turn()
        return pollable.ready()
    return True


@INTERFACE.function("[method]pollable.block", Borrow(Pollable))
def block(host: Host, pollable: Pollable) -> None:
    """Wait until the pollable is ready. The invocation's deadline ends the guest here."""
    _give_up_if_stuck([pollable])
    while not pollable.ready():
        host.wait(pollable.ready, pollable.due_ns)


@INTERFACE.function("poll", List(Borrow(Pollable)), result=List(U32))
def poll(host: Host, pollables: list[Pollable]) -> list[int]:
    """Wait until at least one pollable is ready, and return the indexes of all that are ready, in ascending order.

    The same pollable may be in the list twice. Traps: the list is empty, as WASI says.
    """
    if not pollables:
        raise HostTrap("wasi:io/poll poll: empty list")
    _give_up_if_stuck(pollables)
    due = min((p.due_ns for p in pollables if p.due_ns is not None), default=None)

    def any_ready() -> bool:
        return any(p.ready() for p in pollables)

    while True:
        host.wait(any_ready, due)
        found = [at for at, p in enumerate(pollables) if p.ready()]
        if found:
            return found

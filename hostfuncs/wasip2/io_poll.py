"""wasi:io/poll."""

from collections.abc import Callable

from hostfuncs.abi.ending import HostTrap
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import BOOL, U32, Borrow, List


@resource("pollable")
class Pollable(Entry):
    """Something a guest can wait for.

    Parameters:
        ready: whether it has come. Cheap, may be asked any number of times.
        due_ns: CLOCK_MONOTONIC instant at which it will have come by itself; None if only an event brings it.
        parent: the resource it was subscribed from.
    """

    __slots__ = ("children", "due_ns", "parent", "ready")

    def __init__(self, ready: Callable[[], bool], due_ns: int | None = None, parent: Entry | None = None) -> None:
        self.ready = ready
        self.due_ns = due_ns
        self.parent = parent
        self.children = 0


INTERFACE = Interface("wasi:io/poll", {"pollable": Pollable})


@INTERFACE.function("[method]pollable.ready", Borrow(Pollable), result=BOOL)
def ready(host: Host, pollable: Pollable) -> bool:
    """Whether `block` would return at once. Lets outbound requests move if not, so that asking in a loop ends."""
    if not pollable.ready():
        host.turn()
        return pollable.ready()
    return True


@INTERFACE.function("[method]pollable.block", Borrow(Pollable))
def block(host: Host, pollable: Pollable) -> None:
    """Return once it is ready. The invocation's deadline ends the guest here."""
    while not pollable.ready():
        host.wait(pollable.ready, pollable.due_ns)


@INTERFACE.function("poll", List(Borrow(Pollable)), result=List(U32))
def poll(host: Host, pollables: list[Pollable]) -> list[int]:
    """The places in the list of those that are ready, at least one, in order. The same pollable may be there twice.

    Traps on an empty list, as WASI says.
    """
    if not pollables:
        raise HostTrap("wasi:io/poll poll: empty list")
    due = min((p.due_ns for p in pollables if p.due_ns is not None), default=None)

    def any_ready() -> bool:
        return any(p.ready() for p in pollables)

    while True:
        host.wait(any_ready, due)
        found = [at for at, p in enumerate(pollables) if p.ready()]
        if found:
            return found

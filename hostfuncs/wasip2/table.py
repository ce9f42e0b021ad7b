"""The table of the host objects that a guest holds handles to. Each invocation has its own."""

from typing import Any, ClassVar, TypeVar

from hostfuncs.account import HANDLE_BYTES, Account
from hostfuncs.ending import HostTrap
from hostfuncs.limits import Limit

MAX_REP = 0xFFFF_FFFF


class Entry:
    """Base class of the host object of every resource.

    Class attributes:
        RESOURCE: number that identifies the resource type to wasmtime; `resource` assigns it.
        NAME: the resource's name in WIT, for messages.

    Attributes:
        weight: bytes of the host's memory that the object is counted as. An object whose size the guest decides adds
            that size.

    A resource made from another one (a body's stream, a stream's pollable) is its child. Ending a parent that still has
    children is a trap, as in wasmtime's own host: WASI says that children must be dropped first.
    """

    RESOURCE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""
    parent: "Entry | None" = None
    children: int = 0
    weight: int = HANDLE_BYTES

    def drop(self, host: Any) -> None:
        """Release what the object holds, because the guest dropped its handle."""


E = TypeVar("E", bound=Entry)

_names: list[str] = []


def resource(name: str) -> Any:
    """Return a class decorator that makes a class the host side of the WIT resource `name`."""

    def decorate(cls: type[E]) -> type[E]:
        _names.append(name)
        cls.RESOURCE = len(_names)
        cls.NAME = name
        return cls

    return decorate


class Table:
    """Handles of one invocation.

    Parameters:
        limit: entries alive at once, at least 1.
        account: counts the bytes that they hold.

    A number is never used twice: a stale number names no entry, never somebody else's.
    """

    __slots__ = ("_account", "_entries", "_limit", "_next")

    def __init__(self, limit: int, account: Account) -> None:
        self._entries: dict[int, Entry] = {}
        self._account = account
        self._limit = limit
        self._next = 1

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Table of {len(self._entries)} entries, limit {self._limit}>"

    def add(self, entry: Entry) -> int:
        """Add an object that a handle is about to be made for, and return its number.

        Raises:
            HostTrap: the guest would hold too many objects.
            HostMemoryExceeded: the objects would hold too many bytes.
        """
        if len(self._entries) >= self._limit:
            raise HostTrap(f"more than {self._limit} host resources alive at once", limit=Limit.HOST_ENTRIES)
        rep = self._next
        if rep > MAX_REP:
            raise HostTrap("host resource numbers exhausted")
        self._account.take(entry.weight)
        self._next = rep + 1
        self._entries[rep] = entry
        if entry.parent is not None:
            entry.parent.children += 1
        return rep

    def get(self, rep: int, kind: int) -> Entry:
        """Return the object behind a borrowed handle.

        Raises:
            HostTrap: no object has this number, or it is of another resource type.
        """
        entry = self._entries.get(rep)
        if entry is None or kind != entry.RESOURCE:
            raise HostTrap(f"handle {rep} is not of this type")
        return entry

    def take(self, rep: int, kind: int) -> Entry:
        """Remove and return the object behind a handle that the guest gave away or dropped.

        Raises:
            HostTrap: no object has this number, it is of another resource type, or resources made from it are still
                alive.
        """
        entry = self.get(rep, kind)
        if entry.children:
            raise HostTrap(f"{entry.NAME} ended while {entry.children} resource(s) made from it are alive")
        del self._entries[rep]
        self._account.held -= entry.weight
        if entry.parent is not None:
            entry.parent.children -= 1
            entry.parent = None
        return entry

    def clear(self) -> list[Entry]:
        """Empty the table and return what was in it."""
        entries = list(self._entries.values())
        self._entries.clear()
        return entries

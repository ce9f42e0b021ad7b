"""The host objects a guest holds handles to: one table for one invocation."""

from typing import Any, ClassVar, TypeVar

from hostfuncs.abi.ending import HostTrap

MAX_REP = 0xFFFF_FFFF
MAX_WEIGHT = 16 << 20
"""Bytes that all entries of an invocation may stand for. The guest's own memory has its own limit."""


class Entry:
    """Base of every resource's host object.

    Class attributes:
        RESOURCE: number that identifies the resource type to wasmtime; given out by `resource`.
        NAME: the resource's name in WIT, for messages.

    Attributes:
        weight: bytes of the host's memory it stands for beyond a fixed few; what a guest can make large has one.

    A resource made from another one (a body's stream, a stream's pollable) is its child. As in wasmtime's own host,
    ending a parent that still has children is a trap: WASI says that children must be dropped first.
    """

    RESOURCE: ClassVar[int] = 0
    NAME: ClassVar[str] = ""
    parent: "Entry | None" = None
    children: int = 0
    weight: int = 0

    def drop(self, host: Any) -> None:
        """The guest dropped its handle."""


E = TypeVar("E", bound=Entry)

_names: list[str] = []


def resource(name: str) -> Any:
    """Class decorator: make a class the host side of the WIT resource `name`."""

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

    Numbers are never used twice, so that one kept by mistake is unknown rather than another's.
    """

    __slots__ = ("_entries", "_limit", "_next", "_weight")

    def __init__(self, limit: int) -> None:
        self._entries: dict[int, Entry] = {}
        self._limit = limit
        self._next = 1
        self._weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Table of {len(self._entries)} entries, limit {self._limit}>"

    def add(self, entry: Entry) -> int:
        """Take in an object that a handle is about to be made for.

        Raises:
            HostTrap: the invocation holds too many.
        """
        if len(self._entries) >= self._limit:
            raise HostTrap(f"more than {self._limit} host resources alive at once", limit="host_entries")
        rep = self._next
        if rep > MAX_REP:
            raise HostTrap("host resource numbers exhausted")
        if entry.weight:
            self.weigh(entry.weight)
        self._next = rep + 1
        self._entries[rep] = entry
        if entry.parent is not None:
            entry.parent.children += 1
        return rep

    def weigh(self, change: int) -> None:
        """An entry is about to become heavier, or lighter, by so many bytes.

        Raises:
            HostTrap: all of them together become too heavy.
        """
        if self._weight + change > MAX_WEIGHT:
            raise HostTrap(f"host resources of more than {MAX_WEIGHT} bytes alive at once")
        self._weight += change

    def get(self, rep: int, kind: int) -> Entry:
        """The object behind a borrowed handle.

        Raises:
            HostTrap: there is none, or it is of another resource type.
        """
        entry = self._entries.get(rep)
        if entry is None or kind != entry.RESOURCE:
            raise HostTrap(f"handle {rep} is not of this type")
        return entry

    def take(self, rep: int, kind: int) -> Entry:
        """The object behind a handle that the guest gave away or dropped.

        Raises:
            HostTrap: there is none, it is of another resource type, or resources made from it are still alive.
        """
        entry = self.get(rep, kind)
        if entry.children:
            raise HostTrap(f"{entry.NAME} ended while {entry.children} resource(s) made from it are alive")
        del self._entries[rep]
        self._weight -= entry.weight
        if entry.parent is not None:
            entry.parent.children -= 1
            entry.parent = None
        return entry

    def clear(self) -> list[Entry]:
        """Empty the table; gives back what was in it."""
        entries = list(self._entries.values())
        self._entries.clear()
        self._weight = 0
        return entries

"""One invocation's side of Dapr's wasi-http: its handles, its strings, its way to the outbound engine."""

import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from hostfuncs.abi import DeadlineExceeded, Fault, GuestFunction, HostTrap, InvocationState
from hostfuncs.legacy_http.things import Writer
from hostfuncs.outbound import DeadlineExceeded as OutboundDeadline
from hostfuncs.outbound import Exchange, Exchanges, UsageRecord

REALLOC = "cabi_realloc"
REALLOC_TYPE = (["i32", "i32", "i32", "i32"], ["i32"])

MAX_TEXT_BYTES = 64 * 1024
"""Longest path, query, scheme, authority, method or log line that is copied out of a guest; what is longer is cut
there, which is beyond every limit the engine has for it."""

HELD_BODIES = 4
"""How many bodies of the largest size a guest may have the host hold at once, being written or on their way."""

SMALL_BODY_BYTES = 64 * 1024
"""Bodies below this do not count: a guest has too few handles and requests for them to add up to much."""

_RECORD = struct.Struct("<4I")

T = TypeVar("T")


class Function(NamedTuple):
    """One host function. `call` gets the Calls and its own full name, then one unsigned int per parameter."""

    name: str
    params: str
    result: str
    call: Callable[..., int | None]


class Calls:
    """What the host functions of one linked guest share; used again for each of its invocations.

    Parameters:
        state: the invocation the host functions serve.
        realloc_usable: whether the module exports `cabi_realloc` with the right type.
        entries: how many handles may be alive at once.
        log: takes the lines of `log-it`, without a line end.
    """

    __slots__ = (
        "_entries",
        "_exchanges",
        "_handles",
        "_next",
        "_open",
        "_realloc",
        "_sent",
        "log",
        "memory",
        "state",
    )

    def __init__(
        self, state: InvocationState, *, realloc_usable: bool, entries: int, log: Callable[[bytes], None]
    ) -> None:
        self.state = state
        self.memory = state.memory
        self.log = log
        self._entries = entries
        self._realloc = GuestFunction(state, REALLOC, 4, usable=realloc_usable)
        self._handles: dict[int, object] = {}
        self._next = 1
        self._open: Callable[[], Exchanges] | None = None
        self._exchanges: Exchanges | None = None
        self._sent: list[tuple[Exchange, int]] = []

    def __repr__(self) -> str:
        return f"<Calls {len(self._handles)} handles, {self._exchanges!r}>"

    def begin(self, open_exchanges: Callable[[], Exchanges]) -> None:
        """An invocation begins.

        Parameters:
            open_exchanges: opens its requests (`Outbound.begin` with everything filled in); called at most once, when
                the guest first needs it.
        """
        self._handles.clear()
        self._sent.clear()
        self._next = 1
        self._open = open_exchanges
        self._exchanges = None

    def finish(self) -> list[UsageRecord]:
        """The invocation is over: cancel what is left, forget every handle, and say what was requested."""
        exchanges, self._exchanges, self._open = self._exchanges, None, None
        self._handles.clear()
        self._sent.clear()
        return exchanges.close() if exchanges is not None else []

    @property
    def exchanges(self) -> Exchanges:
        """This invocation's requests."""
        if self._exchanges is None:
            if self._open is None:
                raise HostTrap("outbound HTTP was used outside an invocation")
            self._exchanges = self._open()
        return self._exchanges

    def wait(self, ready: Callable[[], bool]) -> None:
        """Block the guest until `ready()`.

        Raises:
            DeadlineExceeded, Cancelled: the end of the invocation came first.
        """
        if ready():
            return
        try:
            self.exchanges.wait(ready)
        except OutboundDeadline:
            raise DeadlineExceeded from None

    def may_hold(self, more: int) -> bool:
        """Whether so many bytes of bodies may be held beside those that are; looks at every handle."""
        self._sent = [(exchange, size) for exchange, size in self._sent if not exchange.over()]
        held = sum(size for _, size in self._sent)
        seen: set[int] = set()
        for thing in self._handles.values():
            writer = thing if isinstance(thing, Writer) else getattr(thing, "content", None)
            if isinstance(writer, Writer) and id(writer) not in seen:
                seen.add(id(writer))
                held += len(writer.data)
        return held + more <= HELD_BODIES * self.exchanges.limits.body_bytes

    def sent(self, exchange: Exchange, size: int) -> None:
        """A request is on its way with a body of so many bytes."""
        self._sent.append((exchange, size))

    # handles: never used twice within an invocation, so a dropped one cannot come to mean something else

    def add(self, function: str, thing: object) -> int:
        """Give the guest a handle. Raises HostTrap over the limit."""
        if len(self._handles) >= self._entries:
            raise HostTrap(
                f"{function}: more than {self._entries} handles are alive; drop what is no longer needed",
                limit="host_entries",
            )
        handle = self._next
        self._next += 1
        if handle > 0xFFFFFFFF:
            raise HostTrap(f"{function}: every handle has been used")
        self._handles[handle] = thing
        return handle

    def get(self, function: str, argument: str, handle: int, kind: type[T]) -> T:
        """The thing behind a handle. Raises HostTrap if there is none of that kind."""
        thing = self._handles.get(handle)
        if not isinstance(thing, kind):
            raise HostTrap(f"{function}: {argument} {handle} is {self._what(handle)}, not {kind.__name__.lower()}")
        return thing

    def drop(self, function: str, argument: str, handle: int, kind: type[T]) -> T:
        """Take a handle back. Raises HostTrap if there is none of that kind."""
        thing = self.get(function, argument, handle, kind)
        del self._handles[handle]
        return thing

    def alive(self, handle: int) -> bool:
        """Whether a handle is in use."""
        return handle in self._handles

    def _what(self, handle: int) -> str:
        thing = self._handles.get(handle)
        if thing is not None:
            return f"a handle of {type(thing).__name__.lower()}"
        return "a handle that was dropped" if 0 < handle < self._next else "no handle of this invocation"

    # guest memory, with faults that say which argument of which function was wrong

    def text(self, function: str, argument: str, pointer: int, length: int) -> bytes:
        """Bytes of a string argument, cut at MAX_TEXT_BYTES. Raises HostTrap outside memory."""
        return self.data(function, argument, pointer, length, MAX_TEXT_BYTES + 1)

    def data(self, function: str, argument: str, pointer: int, length: int, most: int) -> bytes:
        """Up to `most` bytes of an argument, all of which must lie in memory. Raises HostTrap if not."""
        try:
            self.memory.check(pointer, length)
            return self.memory.read(pointer, min(length, most))
        except Fault as fault:
            raise HostTrap(f"{function}: {argument}: {fault}") from None

    def records(
        self, function: str, argument: str, pointer: int, count: int, most: int, *, limit: str
    ) -> list[tuple[int, ...]]:
        """An array of four-u32 records. Raises HostTrap outside memory or over `most` records, which `limit` sets."""
        if count > most:
            raise HostTrap(f"{function}: {argument}: {count} entries are more than the limit of {most}", limit=limit)
        try:
            return self.memory.unpack_array(_RECORD, pointer, count)
        except Fault as fault:
            raise HostTrap(f"{function}: {argument}: {fault}") from None

    def answer(self, function: str, pointer: int, *numbers: int) -> None:
        """Write little-endian u32 fields where the guest wants its result. Raises HostTrap outside memory."""
        try:
            self.memory.write(pointer, struct.pack(f"<{len(numbers)}I", *numbers))
        except Fault as fault:
            raise HostTrap(f"{function}: out: {fault}") from None

    def check_answer(self, function: str, pointer: int, size: int) -> None:
        """Find out that `answer` will work, before something is taken that could not be given back."""
        try:
            self.memory.check(pointer, size)
        except Fault as fault:
            raise HostTrap(f"{function}: out: {fault}") from None

    def give(self, function: str, data: bytes, align: int = 1) -> int:
        """Copy bytes into memory the guest allocates for them; returns their address.

        Nothing is allocated for no bytes: the address is then `align`, as the canonical ABI has it.

        Raises:
            HostTrap: `cabi_realloc` is missing, or answered 0, or an address that is outside memory or not aligned.
            GuestEnded: it trapped, or a function it called ended the guest.
        """
        pointer = self.reserve(function, len(data), align)
        if data:
            self.memory.write(pointer, data)
        return pointer

    def reserve(self, function: str, size: int, align: int) -> int:
        """As `give`, without contents."""
        if not size:
            return align
        pointer = self._realloc(0, 0, align, size)
        if not pointer:
            raise HostTrap(f"{function}: {REALLOC} returned 0 for {size} bytes")
        if pointer % align:
            raise HostTrap(f"{function}: {REALLOC} returned {pointer}, which is not aligned to {align}")
        try:
            self.memory.check(pointer, size)
        except Fault as fault:
            raise HostTrap(f"{function}: {REALLOC} returned memory that is not there: {fault}") from None
        return pointer

    def give_records(self, function: str, pairs: Sequence[tuple[bytes, bytes]]) -> tuple[int, int]:
        """Copy a list of string pairs into the guest; returns the array's address and length. Raises as `give`."""
        array = self.reserve(function, _RECORD.size * len(pairs), 4)
        packed = bytearray()
        for name, value in pairs:
            packed += _RECORD.pack(self.give(function, name), len(name), self.give(function, value), len(value))
            if time.monotonic_ns() >= self.state.deadline_ns:
                raise DeadlineExceeded
        if packed:
            self.memory.write(array, packed)
        return array, len(pairs)

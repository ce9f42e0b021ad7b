"""The state of one invocation that uses Dapr's wasi-http: handles, guest memory, and access to the outbound client."""

import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from hostfuncs.abi import DeadlineExceeded, Fault, GuestFunction, HostTrap, InvocationState
from hostfuncs.account import Account
from hostfuncs.legacy_http.resources import Resource
from hostfuncs.limits import Limit
from hostfuncs.outbound import Exchanges, UsageRecord

REALLOC = "cabi_realloc"
REALLOC_TYPE = (["i32", "i32", "i32", "i32"], ["i32"])

MAX_TEXT_BYTES = 64 * 1024
"""The most bytes of a path, query, scheme, authority, method or log line that are copied from a guest. Longer ones are
cut. Every limit of the outbound client is below this size."""

_RECORD = struct.Struct("<4I")

T = TypeVar("T", bound=Resource)


class Function(NamedTuple):
    """One host function. `call` takes the Calls, the function's full name, and one unsigned int for each parameter."""

    name: str
    params: str
    result: str
    call: Callable[..., int | None]


class Calls:
    """The state that the host functions of one linked guest share. It is used again for each invocation.

    Parameters:
        state: the invocation that the host functions serve.
        realloc_usable: whether the module exports `cabi_realloc` with the right type.
        entries: the most handles that may be alive at once.
        memory_bytes: the most bytes that the host may hold for a guest at once.
        log: receives the lines of `log-it`, without a line end.
    """

    __slots__ = (
        "_entries",
        "_exchanges",
        "_handles",
        "_next",
        "_open",
        "_realloc",
        "account",
        "log",
        "memory",
        "memory_bytes",
        "state",
    )

    def __init__(
        self,
        state: InvocationState,
        *,
        realloc_usable: bool,
        entries: int,
        memory_bytes: int,
        log: Callable[[bytes], None],
    ) -> None:
        self.state = state
        self.memory = state.memory
        self.log = log
        self._entries = entries
        self._realloc = GuestFunction(state, REALLOC, 4, usable=realloc_usable)
        self._handles: dict[int, Resource] = {}
        self.memory_bytes = memory_bytes
        self.account = Account(memory_bytes)
        self._next = 1
        self._open: Callable[[], Exchanges] | None = None
        self._exchanges: Exchanges | None = None

    def __repr__(self) -> str:
        return f"<Calls {len(self._handles)} handles, {self._exchanges!r}>"

    def begin(self, open_exchanges: Callable[[], Exchanges]) -> None:
        """Reset everything for a new invocation.

        Parameters:
            open_exchanges: opens the invocation's requests (`Outbound.begin` with all its arguments). Called at most
                once, when the guest first needs it.
        """
        self._handles.clear()
        self.account = Account(self.memory_bytes)
        self._next = 1
        self._open = open_exchanges
        self._exchanges = None

    def finish(self) -> list[UsageRecord]:
        """End the invocation: cancel the open requests, drop every handle, and return one record per request."""
        exchanges, self._exchanges, self._open = self._exchanges, None, None
        self._handles.clear()
        return exchanges.close() if exchanges is not None else []

    @property
    def exchanges(self) -> Exchanges:
        """The outbound requests of this invocation."""
        if self._exchanges is None:
            if self._open is None:
                raise HostTrap("outbound HTTP was used outside an invocation")
            self._exchanges = self._open()
        return self._exchanges

    def wait(self, ready: Callable[[], bool]) -> None:
        """Block the guest until `ready()` is true.

        Raises:
            DeadlineExceeded: the invocation's deadline came first.
            Cancelled: the invocation was cancelled.
        """
        if ready():
            return
        self.exchanges.wait(ready)

    # Handles. A number is never used twice within an invocation, so that a dropped handle never names another resource.

    def add(self, function: str, resource: Resource) -> int:
        """Give the guest a handle of a resource, and return it.

        Raises:
            HostTrap: the guest has too many handles.
            HostMemoryExceeded: the resources would hold too many bytes.
        """
        if len(self._handles) >= self._entries:
            raise HostTrap(
                f"{function}: more than {self._entries} handles are alive; drop what is no longer needed",
                limit=Limit.HOST_ENTRIES,
            )
        handle = self._next
        if handle > 0xFFFFFFFF:
            raise HostTrap(f"{function}: every handle has been used")
        self.account.take(resource.weight)
        self._next = handle + 1
        self._handles[handle] = resource
        return handle

    def get(self, function: str, argument: str, handle: int, kind: type[T]) -> T:
        """Return the resource behind a handle. Raises HostTrap if the handle is not of this kind."""
        resource = self._handles.get(handle)
        if not isinstance(resource, kind):
            raise HostTrap(f"{function}: {argument} {handle} is {self._what(handle)}, not {kind.__name__.lower()}")
        return resource

    def drop(self, function: str, argument: str, handle: int, kind: type[T]) -> T:
        """Take a handle back and return its resource. Raises HostTrap if the handle is not of this kind."""
        resource = self.get(function, argument, handle, kind)
        del self._handles[handle]
        self.account.held -= resource.weight
        return resource

    def alive(self, handle: int) -> bool:
        """Return whether a handle is in use."""
        return handle in self._handles

    def _what(self, handle: int) -> str:
        resource = self._handles.get(handle)
        if resource is not None:
            return f"a handle of {type(resource).__name__.lower()}"
        return "a handle that was dropped" if 0 < handle < self._next else "no handle of this invocation"

    # Guest memory. A fault names the function and the argument.

    def text(self, function: str, argument: str, pointer: int, length: int) -> bytes:
        """Return the bytes of a string argument, cut to one byte more than MAX_TEXT_BYTES.

        Raises HostTrap if the argument is out of bounds.
        """
        return self.data(function, argument, pointer, length, MAX_TEXT_BYTES + 1)

    def data(self, function: str, argument: str, pointer: int, length: int, most: int) -> bytes:
        """Return the first `most` bytes of an argument. Raises HostTrap unless all of the argument lies in memory."""
        try:
            self.memory.check(pointer, length)
            return self.memory.read(pointer, min(length, most))
        except Fault as fault:
            raise HostTrap(f"{function}: {argument}: {fault}") from None

    def records(
        self, function: str, argument: str, pointer: int, count: int, most: int, *, limit: Limit
    ) -> list[tuple[int, ...]]:
        """Return an array of records of four u32 each.

        Raises HostTrap if the array is out of bounds, or if it has more than `most` records. The trap then names
        `limit`.
        """
        if count > most:
            raise HostTrap(f"{function}: {argument}: {count} entries are more than the limit of {most}", limit=limit)
        try:
            return self.memory.unpack_array(_RECORD, pointer, count)
        except Fault as fault:
            raise HostTrap(f"{function}: {argument}: {fault}") from None

    def answer(self, function: str, pointer: int, *numbers: int) -> None:
        """Write little-endian u32 fields at the guest's result pointer. Raises HostTrap if it is out of bounds."""
        try:
            self.memory.write(pointer, struct.pack(f"<{len(numbers)}I", *numbers))
        except Fault as fault:
            raise HostTrap(f"{function}: out: {fault}") from None

    def check_answer(self, function: str, pointer: int, size: int) -> None:
        """Raise HostTrap if `answer` would fail. It is called before anything is consumed that cannot be restored."""
        try:
            self.memory.check(pointer, size)
        except Fault as fault:
            raise HostTrap(f"{function}: out: {fault}") from None

    def give(self, function: str, data: bytes, align: int = 1) -> int:
        """Copy bytes into memory that the guest allocates, and return their address.

        If there are no bytes, nothing is allocated. The address is then `align`, as in the canonical ABI.

        Raises:
            HostTrap: `cabi_realloc` is missing, or returned 0 or an address that is out of bounds or not aligned.
            GuestEnded: `cabi_realloc` trapped, or a function that it called ended the guest.
        """
        pointer = self.reserve(function, len(data), align)
        if data:
            self.memory.write(pointer, data)
        return pointer

    def reserve(self, function: str, size: int, align: int) -> int:
        """Have the guest allocate memory, and return its address. See `give` for the errors."""
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
        """Copy string pairs into the guest. Return the array's address and length. See `give` for the errors."""
        array = self.reserve(function, _RECORD.size * len(pairs), 4)
        packed = bytearray()
        for name, value in pairs:
            packed += _RECORD.pack(self.give(function, name), len(name), self.give(function, value), len(value))
            if time.monotonic_ns() >= self.state.deadline_ns:
                raise DeadlineExceeded
        if packed:
            self.memory.write(array, packed)
        return array, len(pairs)

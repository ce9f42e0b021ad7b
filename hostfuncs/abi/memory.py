"""A guest's linear memory, bounds-checked.

One memoryview spans the memory. Slicing and struct check the bounds in C. The memory may have grown since the view was
made. Therefore a failed access reads the size again, and is a `Fault` only if it still fails. This requires memories
that never move (`memory_may_move = False`, or the pooling allocator): growing then changes the size only.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hostfuncs.abi import capi
from hostfuncs.ending import Fault

_EMPTY = memoryview(bytearray())
_MEMORY = bytes((capi.EXTERN_MEMORY,))
_PAGE_BYTES = 4096
_MADV_COLLAPSE = 25
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GuestMemory:
    """The memory of the guest that is running. It is empty between runs.

    Pointers and lengths are the guest's, as the unsigned numbers that host functions receive from
    `hostfuncs.abi.define`. Every method except `lend` copies, and keeps no view when it returns: nothing can use guest
    memory after the guest's store is deleted.
    """

    __slots__ = ("_context", "_extern", "_handle", "_last", "_last_address", "_view", "caller")

    def __init__(self) -> None:
        self._view = _EMPTY
        self._last = _EMPTY
        self._last_address = 0
        self._context = 0
        self._handle = 0
        self._extern = ctypes.create_string_buffer(capi.EXTERN_BYTES)
        self.caller = 0
        """Address of the `wasmtime_caller_t` of the host function that is running; invalid after it has returned."""

    def __repr__(self) -> str:
        return f"<GuestMemory of {len(self._view)} bytes>" if self._handle else "<GuestMemory detached>"

    def attach(self, context: int, handle: int) -> None:
        """Attach the memory of a guest.

        Parameters:
            context: address of its store's context.
            handle: address of the `wasmtime_memory_t`; must stay valid until `detach`.
        """
        self._context = context
        self._handle = handle
        self._look(capi.memory_data_size(context, handle))

    def _look(self, size: int) -> None:
        """Make the view span the memory at its present size."""
        address = capi.memory_data(self._context, self._handle) or 0
        # The allocator tends to return the same slot again. The last view is then still right.
        if address != self._last_address or size != len(self._last):
            self._last = capi.view_of(address, size) if size else _EMPTY
            self._last_address = address
        self._view = self._last

    def detach(self) -> None:
        """Forget the guest; every later access is a Fault. Call before its store is deleted."""
        self._handle = 0
        self._context = 0
        self._view = _EMPTY
        self.caller = 0

    def size(self) -> int:
        """Return the present size in bytes; 0 without a guest, or if the guest exports no memory.

        It may be called between host calls too.
        """
        # Without a handle only the caller structure knows the memory. It is invalid once its host function returned.
        if self._handle:
            self._refresh()
        return len(self._view)

    def use_large_pages(self) -> None:
        """Have the kernel put the memory into pages of 2 MiB, where it can. A fork then copies far fewer entries of its
        page tables; what either side writes later is copied in small pages, as ever.

        It takes milliseconds. Where the kernel cannot (before Linux 6.1), nothing changes.
        """
        size = self.size()
        capi.madvise(self._last_address, size & -_PAGE_BYTES, _MADV_COLLAPSE)

    def _refresh(self) -> bool:
        """Read the size again. Return whether the memory has grown."""
        if not self._handle:
            return self._attach_to_caller()
        size = capi.memory_data_size(self._context, self._handle)
        if size == len(self._view):
            return False
        self._look(size)
        return True

    def _attach_to_caller(self) -> bool:
        """Attach the memory of the caller: while a module's start function runs, the host does not have the instance
        yet.
        """
        if not self.caller:
            return False
        extern = ctypes.addressof(self._extern)
        found = capi.caller_export_get(self.caller, b"memory", 6, extern)
        if not found or self._extern[0] != _MEMORY:
            return False
        self.attach(capi.caller_context(self.caller), extern + capi.EXTERN_ITEM_OFFSET)
        return True

    def _fault(self, pointer: int, length: int) -> Fault:
        return Fault(pointer, length, len(self._view))

    def check(self, pointer: int, length: int) -> None:
        """Check that a range lies in memory.

        Raises:
            Fault: it does not. An empty range may begin at the end of the memory, but not after it.
        """
        if pointer + length > len(self._view) and not (self._refresh() and pointer + length <= len(self._view)):
            raise self._fault(pointer, length)

    def read(self, pointer: int, length: int) -> bytes:
        """Return a copy of a range.

        Raises:
            Fault: it is not in memory. Nothing is allocated then.
        """
        end = pointer + length
        if end > len(self._view):
            self.check(pointer, length)
        return self._view[pointer:end].tobytes()

    def append_to(self, buffer: bytearray, pointer: int, length: int) -> None:
        """Append a copy of a range to `buffer`.

        Raises:
            Fault: it is not in memory. Nothing is appended then.
        """
        end = pointer + length
        if end > len(self._view):
            self.check(pointer, length)
        buffer += self._view[pointer:end]

    def write(self, pointer: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` into memory.

        Raises:
            Fault: it does not fit. Nothing is written then.
        """
        end = pointer + len(data)
        if end > len(self._view):
            self.check(pointer, len(data))
        self._view[pointer:end] = data

    def lend_one(self, pointer: int, length: int, call: Callable[[Sequence[memoryview], int], int], offset: int) -> int:
        """Do as `lend`, for one range, with a further argument for the function. Raises Fault."""
        end = pointer + length
        if end > len(self._view):
            self.check(pointer, length)
        return call((self._view[pointer:end],), offset)

    def lend(self, ranges: Sequence[tuple[int, int]], call: Callable[[list[memoryview]], int]) -> int:
        """Let a function read or fill ranges in place, without a copy. It must not keep the views.

        Parameters:
            ranges: pointer and length of each. They may overlap.
            call: gets a view of each range, in order.

        Returns:
            what `call` gives back.

        Raises:
            Fault: a range is not in memory. `call` is not called then.
        """
        for pointer, length in ranges:
            self.check(pointer, length)
        view = self._view
        return call([view[pointer : pointer + length] for pointer, length in ranges])

    def unpack(self, layout: struct.Struct, pointer: int) -> tuple[Any, ...]:
        """Return the fields of a record.

        Parameters:
            layout: begins with `<`, for little-endian without padding, as WebAssembly memory is on every host.

        Raises:
            Fault: it is not in memory.
        """
        try:
            return layout.unpack_from(self._view, pointer)
        except struct.error:
            self.check(pointer, layout.size)
            return layout.unpack_from(self._view, pointer)

    def pack(self, layout: struct.Struct, pointer: int, *values: Any) -> None:
        """Write the fields of a record.

        Raises:
            Fault: it does not fit. Nothing is written then.
            struct.error: a value is out of its field's range, which is a fault of the host.
        """
        if pointer + layout.size > len(self._view):
            self.check(pointer, layout.size)
        layout.pack_into(self._view, pointer, *values)

    def write_u32(self, pointer: int, value: int) -> None:
        """Write a 32-bit number. Raises Fault."""
        try:
            _U32.pack_into(self._view, pointer, value)
        except struct.error:
            self.check(pointer, 4)
            _U32.pack_into(self._view, pointer, value)

    def write_u64(self, pointer: int, value: int) -> None:
        """Write a 64-bit number. Raises Fault."""
        try:
            _U64.pack_into(self._view, pointer, value)
        except struct.error:
            self.check(pointer, 8)
            _U64.pack_into(self._view, pointer, value)

    def unpack_array(self, layout: struct.Struct, pointer: int, count: int) -> list[tuple[Any, ...]]:
        """Return `count` consecutive records.

        The whole range is checked before anything is allocated. A guest with much memory can still name many records,
        so that callers bound `count` by what their function allows.

        Raises:
            Fault: they are not all in memory.
        """
        return list(layout.iter_unpack(self.read(pointer, count * layout.size)))

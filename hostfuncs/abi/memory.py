"""A guest's linear memory, bounds-checked.

One memoryview spans the memory; slicing and struct then check bounds in C. A guest's memory may have grown since the
view was made, so a failed access asks for the size again, and only then is it a `Fault`. This relies on memories that
never move (`memory_may_move = False`, or the pooling allocator): growing changes the size only.
"""

import ctypes
import struct
from typing import Any

from hostfuncs.abi import capi
from hostfuncs.abi.ending import Fault

_EMPTY = memoryview(bytearray())
_MEMORY = bytes((capi.EXTERN_MEMORY,))
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GuestMemory:
    """The memory of the guest that is running, or nothing at all between guests.

    Pointers and lengths are what the guest gave, as unsigned numbers; host functions defined through
    `hostfuncs.abi.define` receive them so. Every method copies: no view of guest memory leaves this object, so that
    nothing can touch it after the guest's store is gone.
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
        """Address of the `wasmtime_caller_t` of the host function that is running; of no use after it has returned."""

    def __repr__(self) -> str:
        return f"<GuestMemory of {len(self._view)} bytes>" if self._handle else "<GuestMemory detached>"

    def attach(self, context: int, handle: int) -> None:
        """Begin to serve a guest.

        Parameters:
            context: address of its store's context.
            handle: address of the `wasmtime_memory_t`; must stay valid until `detach`.
        """
        self._context = context
        self._handle = handle
        self._look(capi.memory_data_size(context, handle))

    def _look(self, size: int) -> None:
        """Make the view span the memory as it is now."""
        address = capi.memory_data(self._context, self._handle) or 0
        # The allocator tends to give the same slot again, and then last time's view is right as it is.
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
        """Its size now, in bytes; 0 without a guest, or if it has shown none. Also between host functions."""
        # Without a handle there is only the caller to ask, which is gone once its host function has returned.
        if self._handle:
            self._refresh()
        return len(self._view)

    def _refresh(self) -> bool:
        """Take notice of growth. True if there was any."""
        if not self._handle:
            return self._attach_to_caller()
        size = capi.memory_data_size(self._context, self._handle)
        if size == len(self._view):
            return False
        self._look(size)
        return True

    def _attach_to_caller(self) -> bool:
        """While a module's start function runs, there is no instance to ask yet; the caller knows the memory."""
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
        """Make sure that a range lies in memory.

        Raises:
            Fault: it does not. A range of no bytes may begin at the very end, not after it.
        """
        if pointer + length > len(self._view) and not (self._refresh() and pointer + length <= len(self._view)):
            raise self._fault(pointer, length)

    def read(self, pointer: int, length: int) -> bytes:
        """A copy of a range.

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

    def unpack(self, layout: struct.Struct, pointer: int) -> tuple[Any, ...]:
        """The fields of a record.

        Parameters:
            layout: little-endian (`<`) and without surprises: WebAssembly memory is little-endian on every host.

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
            struct.error: a value is out of its field's range, which is the host's mistake.
        """
        if pointer + layout.size > len(self._view):
            self.check(pointer, layout.size)
        layout.pack_into(self._view, pointer, *values)

    def write_u32(self, pointer: int, value: int) -> None:
        """Store a number. Raises Fault."""
        try:
            _U32.pack_into(self._view, pointer, value)
        except struct.error:
            self.check(pointer, 4)
            _U32.pack_into(self._view, pointer, value)

    def write_u64(self, pointer: int, value: int) -> None:
        """Store a number. Raises Fault."""
        try:
            _U64.pack_into(self._view, pointer, value)
        except struct.error:
            self.check(pointer, 8)
            _U64.pack_into(self._view, pointer, value)

    def unpack_array(self, layout: struct.Struct, pointer: int, count: int) -> list[tuple[Any, ...]]:
        """`count` records that follow each other.

        The whole range is checked before anything is allocated, but a guest with much memory can name many records:
        callers bound `count` by what their function allows.

        Raises:
            Fault: they are not all in memory.
        """
        return list(layout.iter_unpack(self.read(pointer, count * layout.size)))

"""How WIT values lie in wasmtime's C API, and what crossing them needs of an invocation.

A `wasmtime_component_val_t` has 32 bytes: the kind in the first, the payload from the eighth. Lists, records and tuples
are (size, pointer), strings and names too; what an option, result or variant carries is a value of its own behind a
pointer.
"""

import ctypes
import struct
from collections.abc import Callable
from typing import Protocol, TypeVar

from hostfuncs.wasip2.capi import VAL_SIZE
from hostfuncs.wasip2.table import Table
from hostfuncs.wasip2.types import Type

NUMBERS = {
    "bool": (0, "?"),
    "s8": (1, "b"),
    "u8": (2, "B"),
    "s16": (3, "h"),
    "u16": (4, "H"),
    "s32": (5, "i"),
    "u32": (6, "I"),
    "s64": (7, "q"),
    "u64": (8, "Q"),
    "f32": (9, "f"),
    "f64": (10, "d"),
}
"""Kind number and `struct` letter of each."""

BYTES_AT_ONCE = 4096
"""`list<u8>` crosses in pieces of this many bytes, which at 32 bytes each stay in the processor's cache."""


class Scratch:
    """Memory that crossings use again and again. One per invocation host: never shared between threads."""

    __slots__ = ("_keep", "address", "bytes_address", "bytes_image", "words")

    def __init__(self) -> None:
        self.words = (ctypes.c_uint64 * 4)()
        """32 bytes the C API writes its answers to."""
        self.address = ctypes.addressof(self.words)
        u8 = bytes([NUMBERS["u8"][0]]) + bytes(VAL_SIZE - 1)
        self.bytes_image = bytearray(u8 * BYTES_AT_ONCE)
        """C values of kind u8; what is written there are their payloads only."""
        self._keep = (ctypes.c_char * len(self.bytes_image)).from_buffer(self.bytes_image)
        self.bytes_address = ctypes.addressof(self._keep)


class Scope(Protocol):
    """What crossing values need of the running invocation."""

    table: Table
    context: int
    """Address of the store's context."""
    scratch: Scratch


CHAR, STRING, LIST, RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, RESOURCE = *range(11, 20), 21

two_words = struct.Struct("<QQ").unpack_from
one_word = struct.Struct("<Q").unpack_from

P = TypeVar("P")


def maybe(compile_type: Callable[[Type], P], kind: Type | None) -> P | None:
    """The codec of a payload that may not be there."""
    return None if kind is None else compile_type(kind)

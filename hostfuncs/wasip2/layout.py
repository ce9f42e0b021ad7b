"""The layout of WIT values in wasmtime's C API, and the state that their conversion needs.

A `wasmtime_component_val_t` has 32 bytes: the kind at offset 0, the payload at offset 8. The payload of a list, record,
tuple, string or name is (size, pointer). An option, result or variant holds a pointer to a further value.
"""

import ctypes
import struct
from collections.abc import Callable
from typing import Protocol, TypeVar

from hostfuncs.account import Account
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
"""Primitive type -> its kind number in the C API and its `struct` letter."""

BYTES_AT_ONCE = 4096
"""A `list<u8>` crosses in pieces of this many bytes. At 32 bytes each, a piece stays in the processor's cache."""


class Scratch:
    """Buffers that conversions use again and again. One for each Host; never shared between threads."""

    __slots__ = ("_keep", "address", "bytes_address", "bytes_image", "words")

    def __init__(self) -> None:
        self.words = (ctypes.c_uint64 * 4)()
        """32 bytes to which the C API writes its answers."""
        self.address = ctypes.addressof(self.words)
        u8 = bytes([NUMBERS["u8"][0]]) + bytes(VAL_SIZE - 1)
        self.bytes_image = bytearray(u8 * BYTES_AT_ONCE)
        """C values of kind u8. Only their payloads are ever overwritten."""
        self._keep = (ctypes.c_char * len(self.bytes_image)).from_buffer(self.bytes_image)
        self.bytes_address = ctypes.addressof(self._keep)


class Scope(Protocol):
    """The parts of the running invocation that the conversion of values needs."""

    table: Table
    account: Account
    """Counts the bytes held for the guest. A large argument must fit into the rest."""
    context: int
    """Address of the store's context."""
    scratch: Scratch


CHAR, STRING, LIST, RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, FLAGS, RESOURCE = range(11, 22)

two_words = struct.Struct("<QQ").unpack_from
one_word = struct.Struct("<Q").unpack_from

P = TypeVar("P")


def maybe(compile_type: Callable[[Type], P], kind: Type | None) -> P | None:
    """Return the codec of a payload, or None for a case that has no payload."""
    return None if kind is None else compile_type(kind)

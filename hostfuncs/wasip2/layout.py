"""How WIT values lie in wasmtime's C API, and what crossing them needs of an invocation.

A `wasmtime_component_val_t` has 32 bytes: the kind in the first, the payload from the eighth. Lists, records and tuples
are (size, pointer), strings and names too; what an option, result or variant carries is a value of its own behind a
pointer.
"""

import ctypes
import struct
from collections.abc import Callable
from typing import Protocol, TypeVar

from hostfuncs.wasip2.table import Table
from hostfuncs.wasip2.types import Type


class Scratch:
    """32 bytes the C API writes its answers to. One per invocation host: never shared between threads."""

    __slots__ = ("address", "words")

    def __init__(self) -> None:
        self.words = (ctypes.c_uint64 * 4)()
        self.address = ctypes.addressof(self.words)


class Scope(Protocol):
    """What crossing values need of the running invocation."""

    table: Table
    context: int
    """Address of the store's context."""
    scratch: Scratch


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
CHAR, STRING, LIST, RECORD, TUPLE, VARIANT, ENUM, OPTION, RESULT, RESOURCE = *range(11, 20), 21

two_words = struct.Struct("<QQ").unpack_from
one_word = struct.Struct("<Q").unpack_from

P = TypeVar("P")


def maybe(compile_type: Callable[[Type], P], kind: Type | None) -> P | None:
    """The codec of a payload that may not be there."""
    return None if kind is None else compile_type(kind)

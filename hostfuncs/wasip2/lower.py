"""Lower the values that a component receives: one Python function is compiled for each type of a signature.

A lowerer makes the 32 bytes of a C value. The C API allocates the memory behind it, and wasmtime takes ownership of
both. A lowerer that raises leaks what it has already allocated. It raises only if a host function returns a value that
does not fit its signature, which is a fault of the host.
"""

import ctypes
import struct
from collections.abc import Callable, Sequence
from ctypes import memmove
from typing import Any

from hostfuncs.abi import capi as abi
from hostfuncs.wasip2 import capi
from hostfuncs.wasip2.capi import PAYLOAD, VAL_SIZE
from hostfuncs.wasip2.layout import (
    BYTES_AT_ONCE,
    CHAR,
    ENUM,
    FLAGS,
    LIST,
    NUMBERS,
    OPTION,
    RECORD,
    RESOURCE,
    RESULT,
    STRING,
    TUPLE,
    VARIANT,
    Scope,
    maybe,
)
from hostfuncs.wasip2.types import (
    U8,
    Borrow,
    Enum,
    Flags,
    List,
    Option,
    Own,
    Prim,
    Record,
    Result,
    Tag,
    Tuple,
    Type,
    Variant,
)

Lower = Callable[[Any, Scope], bytes]
"""(value, scope) -> the 32 bytes of a C value"""

_vector = struct.Struct("<QQQ8x").pack
_pointer = struct.Struct("<QQ16x").pack
_case = struct.Struct("<QQQQ").pack
_result = struct.Struct("<Q?7xQ8x").pack
_name = struct.Struct("<QQ").pack
_char = struct.Struct("<QI20x").pack


def lowerer(kind: Type) -> Lower:
    """Return the function that lowers values of a type."""
    match kind:
        case Prim("string"):
            return _lower_string
        case Prim("char"):
            return lambda value, _scope: _char(CHAR, ord(value))
        case Prim(name):
            return _number_lowerer(name)
        case List(element):
            return _lower_bytes if element == U8 else _list_lowerer(lowerer(element))
        case Option(inner):
            return _option_lowerer(lowerer(inner))
        case Result(good, bad):
            return _result_lowerer(maybe(lowerer, good), maybe(lowerer, bad))
        case Variant(cases):
            return _variant_lowerer({name: (name.encode(), maybe(lowerer, t)) for name, t in cases})
        case Enum(names):
            return _enum_lowerer({name: name.encode() for name in names})
        case Flags(names):
            return _flags_lowerer([(name, name.encode()) for name in names])
        case Record(fields):
            return _record_lowerer([name.encode() for name, _ in fields], [lowerer(t) for _, t in fields])
        case Tuple(items):
            return _tuple_lowerer([lowerer(t) for t in items])
        case Own(resource):
            return _handle_lowerer(resource.RESOURCE)
        case Borrow():
            raise TypeError("a host function cannot return a borrowed handle")


def _number_lowerer(name: str) -> Lower:
    kind, letter = NUMBERS[name]
    layout = struct.Struct("<Q" + letter)
    pack, pad = layout.pack, bytes(VAL_SIZE - layout.size)
    return lambda value, _scope: pack(kind, value) + pad


def _new_name(text: bytes, scope: Scope) -> tuple[int, int]:
    scratch = scope.scratch
    capi.byte_vec_new(scratch.address, len(text), text)
    words = scratch.words
    return words[0], words[1]


def _lower_string(value: str, scope: Scope) -> bytes:
    size, data = _new_name(value.encode(), scope)
    return _vector(STRING, size, data)


def _lower_bytes(value: bytes | bytearray | memoryview, scope: Scope) -> bytes:
    size = len(value)
    scratch = scope.scratch
    capi.vallist_new_uninit(scratch.address, size)
    data: int = scratch.words[1]
    image, source = scratch.bytes_image, scratch.bytes_address
    for at in range(0, size, BYTES_AT_ONCE):
        count = min(BYTES_AT_ONCE, size - at) * VAL_SIZE
        image[PAYLOAD:count:VAL_SIZE] = value[at : at + BYTES_AT_ONCE]
        memmove(data + at * VAL_SIZE, source, count)
    return _vector(LIST, size, data)


def _list_lowerer(element: Lower) -> Lower:
    def lower(value: Sequence[Any], scope: Scope) -> bytes:
        images = b"".join([element(item, scope) for item in value])
        scratch = scope.scratch
        capi.vallist_new_uninit(scratch.address, len(value))
        data = scratch.words[1]
        memmove(data, images, len(images))
        return _vector(LIST, len(value), data)

    return lower


def _record_lowerer(names: list[bytes], parts: list[Lower]) -> Lower:
    count = len(parts)

    def lower(value: Sequence[Any], scope: Scope) -> bytes:
        images = b"".join(
            [
                _name(*_new_name(name, scope)) + part(item, scope)
                for name, part, item in zip(names, parts, value, strict=True)
            ]
        )
        scratch = scope.scratch
        capi.valrecord_new_uninit(scratch.address, count)
        data = scratch.words[1]
        memmove(data, images, len(images))
        return _vector(RECORD, count, data)

    return lower


def _tuple_lowerer(parts: list[Lower]) -> Lower:
    count = len(parts)

    def lower(value: Sequence[Any], scope: Scope) -> bytes:
        images = b"".join([part(item, scope) for part, item in zip(parts, value, strict=True)])
        scratch = scope.scratch
        capi.valtuple_new_uninit(scratch.address, count)
        data = scratch.words[1]
        memmove(data, images, len(images))
        return _vector(TUPLE, count, data)

    return lower


def _boxed(image: bytes, scope: Scope) -> int:
    scratch = scope.scratch
    memmove(scratch.address, image, VAL_SIZE)
    address: int = capi.val_new(scratch.address)
    return address


def _option_lowerer(inner: Lower) -> Lower:
    none = _pointer(OPTION, 0)

    def lower(value: Tag, scope: Scope) -> bytes:
        if value.name == "none":
            return none
        if value.name != "some":
            raise ValueError(f"{value!r} is not an option")
        return _pointer(OPTION, _boxed(inner(value.payload, scope), scope))

    return lower


def _result_lowerer(good: Lower | None, bad: Lower | None) -> Lower:
    def lower(value: Tag, scope: Scope) -> bytes:
        if value.name == "ok":
            is_ok, part = True, good
        elif value.name == "err":
            is_ok, part = False, bad
        else:
            raise ValueError(f"{value!r} is not a result")
        return _result(RESULT, is_ok, _boxed(part(value.payload, scope), scope) if part else 0)

    return lower


def _variant_lowerer(cases: dict[str, tuple[bytes, Lower | None]]) -> Lower:
    def lower(value: Tag, scope: Scope) -> bytes:
        name, part = cases[value.name]
        pointer = _boxed(part(value.payload, scope), scope) if part else 0
        size, data = _new_name(name, scope)
        return _case(VARIANT, size, data, pointer)

    return lower


def _enum_lowerer(names: dict[str, bytes]) -> Lower:
    def lower(value: str, scope: Scope) -> bytes:
        size, data = _new_name(names[value], scope)
        return _vector(ENUM, size, data)

    return lower


def _flags_lowerer(names: list[tuple[str, bytes]]) -> Lower:
    def lower(value: frozenset[str], scope: Scope) -> bytes:
        images = b"".join([_name(*_new_name(text, scope)) for name, text in names if name in value])
        scratch = scope.scratch
        capi.valflags_new_uninit(scratch.address, len(value))
        data = scratch.words[1]
        memmove(data, images, len(images))
        return _vector(FLAGS, len(value), data)

    return lower


def _handle_lowerer(kind: int) -> Lower:
    def lower(value: Any, scope: Scope) -> bytes:
        if kind != value.RESOURCE:
            raise TypeError(f"{value!r} is of another resource type")
        host = capi.resource_host_new(True, scope.table.add(value), kind)
        scratch = scope.scratch
        error = capi.resource_host_to_any(scope.context, host, scratch.address)
        capi.resource_host_delete(host)
        if error:
            raise RuntimeError(abi.take_error(error))
        return _pointer(RESOURCE, scratch.words[0])

    return lower


class Arguments:
    """C values for the call of a guest's function.

    Parameters:
        images: the values, as lowerers made them. `free` frees them.
    """

    def __init__(self, images: Sequence[bytes]) -> None:
        self._buffer = ctypes.create_string_buffer(b"".join(images), max(1, len(images)) * VAL_SIZE)
        self.count = len(images)
        self.address = ctypes.addressof(self._buffer)

    def free(self) -> None:
        """Free the values and all that they hold."""
        for at in range(self.count):
            capi.val_delete(self.address + at * VAL_SIZE)
        self.count = 0

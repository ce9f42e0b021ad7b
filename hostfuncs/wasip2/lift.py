"""Lift the values that a component passes: one Python function is compiled for each type of a signature.

The memory behind a C value is copied in one piece for each list, record or tuple. wasmtime owns the arguments, so that
nothing is freed here. The C API gives every byte of a `list<u8>` a value of 32 bytes. Copying all of them and then
taking every 32nd byte is several times faster than a strided view.
"""

import struct
from collections.abc import Callable, Sequence
from ctypes import string_at
from typing import Any

from hostfuncs.abi import capi as abi
from hostfuncs.ending import HostTrap
from hostfuncs.wasip2 import capi
from hostfuncs.wasip2.capi import ENTRY_SIZE, PAYLOAD, VAL_SIZE
from hostfuncs.wasip2.layout import BYTES_AT_ONCE, NUMBERS, Scope, maybe, one_word, two_words
from hostfuncs.wasip2.types import (
    NONE,
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

_MANY = 128
"""A list of more elements than this is checked against the bytes that the host may still hold for the guest."""

_ELEMENT_BYTES = 256
"""The cost of an element while it crosses: 32 bytes of C, and a few of Python's objects."""

Lift = Callable[[bytes, int, Scope], Any]
"""(bytes that hold C values, offset of this value, scope) -> Python value"""


def lifter(kind: Type) -> Lift:
    """Return the function that lifts values of a type."""
    match kind:
        case Prim("string"):
            return _lift_string
        case Prim("char"):
            return lambda raw, at, _scope: chr(one_word(raw, at + PAYLOAD)[0] & 0xFFFFFFFF)
        case Prim(name):
            return _number_lifter(name)
        case List(element, most):
            return _lift_bytes if element == U8 else _list_lifter(lifter(element), _weigher(element), most)
        case Option(inner):
            return _option_lifter(lifter(inner))
        case Result(good, bad):
            return _result_lifter(maybe(lifter, good), maybe(lifter, bad))
        case Variant(cases):
            return _variant_lifter({name.encode(): (name, maybe(lifter, t)) for name, t in cases})
        case Enum(names):
            return _enum_lifter({name.encode(): name for name in names})
        case Flags(names):
            return _flags_lifter({name.encode(): name for name in names})
        case Record(fields):
            return _sequence_lifter([lifter(t) for _, t in fields], ENTRY_SIZE, 16)
        case Tuple(items):
            return _sequence_lifter([lifter(t) for t in items], VAL_SIZE, 0)
        case Own(resource):
            return _handle_lifter(resource.RESOURCE, own=True)
        case Borrow(resource):
            return _handle_lifter(resource.RESOURCE, own=False)


def _number_lifter(name: str) -> Lift:
    read = struct.Struct("<" + NUMBERS[name][1]).unpack_from
    return lambda raw, at, _scope: read(raw, at + PAYLOAD)[0]


def _lift_string(raw: bytes, at: int, scope: Scope) -> str:
    size, data = two_words(raw, at + PAYLOAD)
    if size > BYTES_AT_ONCE:
        scope.account.check(size)
    return string_at(data, size).decode() if size else ""


def _lift_bytes(raw: bytes, at: int, scope: Scope) -> bytes:
    size, data = two_words(raw, at + PAYLOAD)
    if not size:
        return b""
    if size <= BYTES_AT_ONCE:
        return string_at(data, size * VAL_SIZE)[PAYLOAD::VAL_SIZE]
    scope.account.check(size)
    end = data + size * VAL_SIZE
    step = BYTES_AT_ONCE * VAL_SIZE
    return b"".join([string_at(at, min(step, end - at))[PAYLOAD::VAL_SIZE] for at in range(data, end, step)])


def _weigher(kind: Type) -> Callable[[Any], int] | None:
    """Return the function that tells the bytes of a lifted element; None for those that _ELEMENT_BYTES covers."""
    match kind:
        case Prim("string") | List(Prim("u8")):
            return len
        case Tuple(items):
            parts = [(at, weigh) for at, item in enumerate(items) if (weigh := _weigher(item)) is not None]
            return (lambda value: sum([weigh(value[at]) for at, weigh in parts])) if parts else None
        case Prim() | Own() | Borrow() | Enum() | Flags():
            return None
        case _:
            raise TypeError(f"no WIT that is implemented has a list of {kind}")


def _list_lifter(element: Lift, weigh: Callable[[Any], int] | None, most: int) -> Lift:
    def lift(raw: bytes, at: int, scope: Scope) -> list[Any]:
        size, data = two_words(raw, at + PAYLOAD)
        if not size:
            return []
        if size > most:
            raise HostTrap(f"a list of {size} elements, at most {most} are taken")
        if size > _MANY:
            scope.account.check(size * _ELEMENT_BYTES)
        values = string_at(data, size * VAL_SIZE)
        places = range(0, size * VAL_SIZE, VAL_SIZE)
        if weigh is None:
            return [element(values, at, scope) for at in places]
        # The elements may all be the same bytes of the guest's: together they can be far more than its memory.
        lifted, held = [], 0
        for at in places:
            value = element(values, at, scope)
            held += weigh(value)
            if held > BYTES_AT_ONCE:
                scope.account.check(size * _ELEMENT_BYTES + held)
            lifted.append(value)
        return lifted

    return lift


def _sequence_lifter(parts: list[Lift], stride: int, skip: int) -> Lift:
    places = [(part, at * stride + skip) for at, part in enumerate(parts)]

    def lift(raw: bytes, at: int, scope: Scope) -> tuple[Any, ...]:
        size, data = two_words(raw, at + PAYLOAD)
        if size != len(places):
            raise TypeError(f"{size} values where {len(places)} belong")
        values = string_at(data, size * stride)
        return tuple([part(values, place, scope) for part, place in places])

    return lift


def _option_lifter(inner: Lift) -> Lift:
    def lift(raw: bytes, at: int, scope: Scope) -> Tag:
        (pointer,) = one_word(raw, at + PAYLOAD)
        return Tag("some", inner(string_at(pointer, VAL_SIZE), 0, scope)) if pointer else NONE

    return lift


def _result_lifter(good: Lift | None, bad: Lift | None) -> Lift:
    def lift(raw: bytes, at: int, scope: Scope) -> Tag:
        is_ok, pointer = two_words(raw, at + PAYLOAD)
        name, part = ("ok", good) if is_ok & 0xFF else ("err", bad)
        return Tag(name, part(string_at(pointer, VAL_SIZE), 0, scope) if part else None)

    return lift


def _variant_lifter(cases: dict[bytes, tuple[str, Lift | None]]) -> Lift:
    def lift(raw: bytes, at: int, scope: Scope) -> Tag:
        size, data = two_words(raw, at + PAYLOAD)
        name, part = cases[string_at(data, size)]
        if part is None:
            return Tag(name)
        (pointer,) = one_word(raw, at + 24)
        return Tag(name, part(string_at(pointer, VAL_SIZE), 0, scope))

    return lift


def _enum_lifter(names: dict[bytes, str]) -> Lift:
    def lift(raw: bytes, at: int, _scope: Scope) -> str:
        size, data = two_words(raw, at + PAYLOAD)
        return names[string_at(data, size)]

    return lift


def _flags_lifter(names: dict[bytes, str]) -> Lift:
    def lift(raw: bytes, at: int, _scope: Scope) -> frozenset[str]:
        size, data = two_words(raw, at + PAYLOAD)
        if not size:
            return frozenset()
        if size > len(names):
            raise TypeError(f"{size} flags where {len(names)} belong")
        places = string_at(data, size * 16)
        found = [two_words(places, place) for place in range(0, size * 16, 16)]
        return frozenset([names[string_at(text, length)] for length, text in found])

    return lift


def _handle_lifter(kind: int, *, own: bool) -> Lift:
    def lift(raw: bytes, at: int, scope: Scope) -> Any:
        (handle,) = one_word(raw, at + PAYLOAD)
        scratch = scope.scratch
        # This also ends the borrow: wasmtime traps when a call returns while one is open.
        error = capi.resource_any_to_host(scope.context, handle, scratch.address)
        if error:
            raise RuntimeError(abi.take_error(error))
        host = scratch.words[0]
        rep, found = capi.resource_host_rep(host), capi.resource_host_type(host)
        capi.resource_host_delete(host)
        # wasmtime has checked the handle against the component's types. This checks it against the types declared here.
        entry = scope.table.get(rep, found)
        if found != kind:
            raise TypeError(f"a handle of {entry.NAME} where another resource belongs")
        return scope.table.take(rep, found) if own else entry

    return lift


def argument_lifters(params: Sequence[Type]) -> list[tuple[Lift, int]]:
    """Return the lifter of each parameter, with the offset of its value."""
    return [(lifter(kind), at * VAL_SIZE) for at, kind in enumerate(params)]

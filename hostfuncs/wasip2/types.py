"""WIT types as Python objects: the types of a host function's parameters and result.

A component states the signature of each function it imports, and wasmtime links a dynamically typed host function with
any signature. Therefore each host function here states its own signature with these types. `matches` compares it with
the component's when the component is loaded. The value codec is compiled from the host's signature, never from the
guest's.

Values in Python: numbers, `bool`, `str`; `list<u8>` is `bytes`, other lists are `list`; records and tuples are `tuple`
in field order; enums are `str`, flags a `frozenset` of names; variants, options and results are `Tag`; a resource is
the host object itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wasmtime import component as wc

from hostfuncs.wasip2.table import Entry


class Tag:
    """A case of a variant, option or result, with its payload.

    Parameters:
        name: the case: `ok`, `err`, `some`, `none`, or as the variant has it.
        payload: the case's value; None where it has none.
    """

    __slots__ = ("name", "payload")

    def __init__(self, name: str, payload: Any = None) -> None:
        self.name = name
        self.payload = payload

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tag) and self.name == other.name and bool(self.payload == other.payload)

    def __hash__(self) -> int:
        return hash((self.name, self.payload))

    def __repr__(self) -> str:
        return self.name if self.payload is None else f"{self.name}({self.payload!r})"


def ok(value: Any = None) -> Tag:
    """Return the `ok` case of a result."""
    return Tag("ok", value)


def err(value: Any = None) -> Tag:
    """Return the `err` case of a result."""
    return Tag("err", value)


def some(value: Any) -> Tag:
    """Return the `some` case of an option."""
    return Tag("some", value)


NONE = Tag("none")
OK = Tag("ok")
ERR = Tag("err")


def option(value: Any) -> Tag:
    """Return `none` for None, else `some`. Not for options whose value may itself be None."""
    return NONE if value is None else Tag("some", value)


@dataclass(frozen=True, slots=True)
class Prim:
    """A primitive type: bool, a number, char or string. It has its name in WIT."""

    name: str


BOOL, U8, U16, U32, U64 = Prim("bool"), Prim("u8"), Prim("u16"), Prim("u32"), Prim("u64")
S8, S16, S32, S64 = Prim("s8"), Prim("s16"), Prim("s32"), Prim("s64")
F32, F64, CHAR, STRING = Prim("f32"), Prim("f64"), Prim("char"), Prim("string")


@dataclass(frozen=True, slots=True)
class List:
    """A list.

    `most` bounds the elements of a list that does not hold bytes. Each element costs the host time that the deadline
    cannot end.
    """

    element: "Type"
    most: int = 65_536


@dataclass(frozen=True, slots=True)
class Option:
    """An option."""

    some: "Type"


@dataclass(frozen=True, slots=True)
class Result:
    """A result. None stands for a case without a payload."""

    ok: "Type | None" = None
    err: "Type | None" = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant: each case has a name and perhaps a payload."""

    cases: "tuple[tuple[str, Type | None], ...]"


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flags:
    """A set of names; a `frozenset` of those that are set."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A record: each field has a name and a type."""

    fields: "tuple[tuple[str, Type], ...]"


@dataclass(frozen=True, slots=True)
class Tuple:
    """A tuple."""

    items: "tuple[Type, ...]"


@dataclass(frozen=True, slots=True)
class Own:
    """A handle that passes to the receiver. A host function receives the object, which has left the table."""

    resource: type[Entry]


@dataclass(frozen=True, slots=True)
class Borrow:
    """A handle lent for one call."""

    resource: type[Entry]


Type = Prim | List | Option | Result | Variant | Enum | Flags | Record | Tuple | Own | Borrow

BYTES = List(U8)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameter types, without names, and the result type."""

    params: tuple[Type, ...] = ()
    result: Type | None = None


_PRIMS: dict[type, str] = {
    wc.Bool: "bool",
    wc.U8: "u8",
    wc.U16: "u16",
    wc.U32: "u32",
    wc.U64: "u64",
    wc.S8: "s8",
    wc.S16: "s16",
    wc.S32: "s32",
    wc.S64: "s64",
    wc.F32: "f32",
    wc.F64: "f64",
    wc.Char: "char",
    wc.String: "string",
}


def _all(expected: Sequence[Type | None], found: Sequence[Any]) -> bool:
    return len(expected) == len(found) and all(_same(e, f) for e, f in zip(expected, found, strict=True))


def _same(expected: Type | None, found: Any) -> bool:
    if expected is None or found is None:
        return expected is None and found is None
    match expected:
        case Prim(name):
            return _PRIMS.get(type(found)) == name
        case List(element):
            return isinstance(found, wc.ListType) and _same(element, found.element)
        case Option(inner):
            return isinstance(found, wc.OptionType) and _same(inner, found.payload)
        case Result(good, bad):
            return isinstance(found, wc.ResultType) and _same(good, found.ok) and _same(bad, found.err)
        case Variant(cases):
            return (
                isinstance(found, wc.VariantType)
                and [name for name, _ in cases] == [name for name, _ in found.cases]
                and _all([t for _, t in cases], [t for _, t in found.cases])
            )
        case Enum(names):
            return isinstance(found, wc.EnumType) and list(names) == list(found.names)
        case Flags(names):
            return isinstance(found, wc.FlagsType) and list(names) == list(found.names)
        case Record(fields):
            return (
                isinstance(found, wc.RecordType)
                and [name for name, _ in fields] == [name for name, _ in found.fields]
                and _all([t for _, t in fields], [t for _, t in found.fields])
            )
        case Tuple(items):
            return isinstance(found, wc.TupleType) and _all(items, found.elements)
        case Own():
            return isinstance(found, wc.OwnType)
        case Borrow():
            return isinstance(found, wc.BorrowType)


def matches(expected: Signature, found: Any) -> bool:
    """Return whether a component's function type has this signature. Any resource matches any other resource here.

    `hostfuncs.wasip2.table` checks the resource type of a handle each time one crosses.
    """
    return _all(expected.params, [t for _, t in found.params]) and _same(expected.result, found.result)

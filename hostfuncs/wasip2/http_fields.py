"""wasi:http/types fields: headers and trailers. Source of the rules and their order: `wasmtime-wasi-http`, p2.

Errors of the functions that change fields (WIT `header-error`), in the order in which they are checked:
`invalid-syntax` for a name that is not a token, `forbidden` for a name that belongs to the connection, `invalid-syntax`
for a value that no header may have, `immutable` for fields that the guest may not change.
"""

from collections.abc import Iterable

from hostfuncs.account import HANDLE_BYTES, LINE_BYTES
from hostfuncs.ending import HostTrap
from hostfuncs.field_rules import FIELDS_BYTES, LINE_COST
from hostfuncs.outbound import is_field_name, is_field_value, is_forbidden
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.http_types import TYPES
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import (
    BOOL,
    BYTES,
    OK,
    STRING,
    Borrow,
    List,
    Own,
    Result,
    Tag,
    Tuple,
    Variant,
    err,
    ok,
)

HEADER_ERROR = Variant((("invalid-syntax", None), ("forbidden", None), ("immutable", None)))
_INVALID = err(Tag("invalid-syntax"))
_FORBIDDEN = err(Tag("forbidden"))
_IMMUTABLE = err(Tag("immutable"))


@resource("fields")
class Fields(Entry):
    """Header or trailer lines.

    Parameters:
        lines: (lower-case name, value).
        immutable: whether the guest may change them.
    """

    __slots__ = ("children", "immutable", "lines", "parent", "size", "weight")

    def __init__(self, lines: Iterable[tuple[str, bytes]] = (), *, immutable: bool = False) -> None:
        self.parent = None
        self.children = 0
        self.immutable = immutable
        self.lines: list[tuple[str, bytes]] = list(lines)
        self.size = sum(map(_cost, self.lines))
        """The size in bytes as wasmtime counts it."""
        self.weight = _weight(self.size, len(self.lines))

    def change(self, host: Host, lines: list[tuple[str, bytes]]) -> None:
        """Replace all lines. Raises HostTrap or HostMemoryExceeded if the new ones are too large."""
        size = sum(map(_cost, lines))
        _check_size(size)
        weight = _weight(size, len(lines))
        host.account.take(weight - self.weight)
        self.lines, self.size, self.weight = lines, size, weight

    def wire(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the lines in the form that the outbound client takes."""
        return tuple((name.encode("ascii"), value) for name, value in self.lines)


def _cost(line: tuple[str, bytes]) -> int:
    return len(line[0]) + len(line[1]) + LINE_COST


def _weight(size: int, lines: int) -> int:
    """Return the bytes of the host's memory that lines take, given the `size` that wasmtime would count."""
    return HANDLE_BYTES + size + lines * (LINE_BYTES - LINE_COST)


def _check_size(size: int) -> None:
    if size > FIELDS_BYTES:
        raise HostTrap(f"wasi:http/types fields: more than {FIELDS_BYTES} bytes")


def received(lines: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Return fields of lines that came from outside.

    They are immutable, and fields that belong to the connection are left out.
    """
    return Fields(
        ((name.lower().decode("latin-1"), value) for name, value in lines if not is_forbidden(name)), immutable=True
    )


TYPES.resources.update({"fields": Fields, "headers": Fields, "trailers": Fields})

_CHANGED = Result(None, HEADER_ERROR)


def _bad_name(name: str) -> Tag | None:
    if not name.isascii() or not is_field_name(name.encode()):
        return _INVALID
    return _FORBIDDEN if is_forbidden(name.encode()) else None


@TYPES.function("[constructor]fields", result=Own(Fields))
def new(_host: Host) -> Fields:
    """Return empty fields that the guest may change."""
    return Fields()


@TYPES.function("[static]fields.from-list", List(Tuple((STRING, BYTES))), result=Result(Own(Fields), HEADER_ERROR))
def from_list(_host: Host, lines: list[tuple[str, bytes]]) -> Tag:
    """Return fields with these lines, which the guest may change.

    Errors: `invalid-syntax` or `forbidden` for the first line that is wrong. Traps: more than 128 KiB.
    """
    for name, value in lines:
        bad = _bad_name(name)
        if bad is not None:
            return bad
        if not is_field_value(value):
            return _INVALID
    fields = Fields((name.lower(), value) for name, value in lines)
    _check_size(fields.size)
    return ok(fields)


@TYPES.function("[method]fields.get", Borrow(Fields), STRING, result=List(BYTES))
def get(_host: Host, fields: Fields, name: str) -> list[bytes]:
    """Return all values of a name, in order. The list is empty for a name that no field can have."""
    wanted = name.lower()
    return [value for key, value in fields.lines if key == wanted]


@TYPES.function("[method]fields.has", Borrow(Fields), STRING, result=BOOL)
def has(_host: Host, fields: Fields, name: str) -> bool:
    """Return whether there is a line of this name."""
    wanted = name.lower()
    return any(key == wanted for key, _ in fields.lines)


@TYPES.function("[method]fields.set", Borrow(Fields), STRING, List(BYTES), result=_CHANGED)
def set_(host: Host, fields: Fields, name: str, values: list[bytes]) -> Tag:
    """Replace all lines of a name. The new lines stand where the first old one stood; no values remove the name.

    Errors: `invalid-syntax`, `forbidden`, `immutable`. Traps: more than 128 KiB.
    """
    bad = _bad_name(name)
    if bad is not None:
        return bad
    if not all(map(is_field_value, values)):
        return _INVALID
    if fields.immutable:
        return _IMMUTABLE
    key = name.lower()
    place = next((at for at, (other, _) in enumerate(fields.lines) if other == key), len(fields.lines))
    kept = [line for line in fields.lines if line[0] != key]
    fields.change(host, [*kept[:place], *((key, value) for value in values), *kept[place:]])
    return OK


@TYPES.function("[method]fields.delete", Borrow(Fields), STRING, result=_CHANGED)
def delete(host: Host, fields: Fields, name: str) -> Tag:
    """Remove all lines of a name, if there are any. Errors: `invalid-syntax`, `forbidden`, `immutable`."""
    bad = _bad_name(name)
    if bad is not None:
        return bad
    if fields.immutable:
        return _IMMUTABLE
    key = name.lower()
    fields.change(host, [line for line in fields.lines if line[0] != key])
    return OK


@TYPES.function("[method]fields.append", Borrow(Fields), STRING, BYTES, result=_CHANGED)
def append(host: Host, fields: Fields, name: str, value: bytes) -> Tag:
    """Add one line at the end. Errors: `invalid-syntax`, `forbidden`, `immutable`. Traps: more than 128 KiB."""
    bad = _bad_name(name)
    if bad is not None:
        return bad
    if not is_field_value(value):
        return _INVALID
    if fields.immutable:
        return _IMMUTABLE
    line = (name.lower(), value)
    size = fields.size + _cost(line)
    _check_size(size)
    weight = _weight(size, len(fields.lines) + 1)
    host.account.take(weight - fields.weight)
    fields.lines.append(line)
    fields.size, fields.weight = size, weight
    return OK


@TYPES.function("[method]fields.entries", Borrow(Fields), result=List(Tuple((STRING, BYTES))))
def entries(_host: Host, fields: Fields) -> list[tuple[str, bytes]]:
    """Return all lines in order, with names in lower case."""
    return fields.lines


@TYPES.function("[method]fields.clone", Borrow(Fields), result=Own(Fields))
def clone(_host: Host, fields: Fields) -> Fields:
    """Return a copy that the guest may change."""
    return Fields(fields.lines)

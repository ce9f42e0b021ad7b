"""wasi:http/types fields: headers and trailers. Rules and their order are wasmtime's (`wasmtime-wasi-http`, p2)."""

from collections.abc import Iterable

from hostfuncs.abi.ending import HostTrap
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

SIZE_MAX = 128 * 1024
"""Names and values of one `fields`, each line counted `LINE_COST` more. More is a trap, as in wasmtime."""
LINE_COST = 64

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

    __slots__ = ("children", "immutable", "lines", "parent", "weight")

    def __init__(self, lines: Iterable[tuple[str, bytes]] = (), *, immutable: bool = False) -> None:
        self.parent = None
        self.children = 0
        self.immutable = immutable
        self.lines: list[tuple[str, bytes]] = list(lines)
        self.weight = sum(map(_cost, self.lines))

    def change(self, host: Host, lines: list[tuple[str, bytes]]) -> None:
        """Take other lines instead. Raises HostTrap if they are too large."""
        weight = sum(map(_cost, lines))
        _check_size(weight)
        host.table.weigh(weight - self.weight)
        self.lines, self.weight = lines, weight

    def wire(self) -> tuple[tuple[bytes, bytes], ...]:
        """As the outbound engine takes them."""
        return tuple((name.encode("ascii"), value) for name, value in self.lines)


def _cost(line: tuple[str, bytes]) -> int:
    return len(line[0]) + len(line[1]) + LINE_COST


def _check_size(size: int) -> None:
    if size > SIZE_MAX:
        raise HostTrap(f"wasi:http/types fields: more than {SIZE_MAX} bytes")


def received(lines: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Lines that came from outside: immutable, and without those that belong to the connection."""
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
    """Empty and mutable."""
    return Fields()


@TYPES.function("[static]fields.from-list", List(Tuple((STRING, BYTES))), result=Result(Own(Fields), HEADER_ERROR))
def from_list(_host: Host, lines: list[tuple[str, bytes]]) -> Tag:
    """Mutable fields with these lines; fails as `append` would on the first bad one."""
    for name, value in lines:
        bad = _bad_name(name)
        if bad is not None:
            return bad
        if not is_field_value(value):
            return _INVALID
    fields = Fields((name.lower(), value) for name, value in lines)
    _check_size(fields.weight)
    return ok(fields)


@TYPES.function("[method]fields.get", Borrow(Fields), STRING, result=List(BYTES))
def get(_host: Host, fields: Fields, name: str) -> list[bytes]:
    """All values of a name in order; none for a name that cannot be one."""
    wanted = name.lower()
    return [value for key, value in fields.lines if key == wanted]


@TYPES.function("[method]fields.has", Borrow(Fields), STRING, result=BOOL)
def has(_host: Host, fields: Fields, name: str) -> bool:
    """Whether there is a line of that name."""
    wanted = name.lower()
    return any(key == wanted for key, _ in fields.lines)


@TYPES.function("[method]fields.set", Borrow(Fields), STRING, List(BYTES), result=_CHANGED)
def set_(host: Host, fields: Fields, name: str, values: list[bytes]) -> Tag:
    """Replace all lines of a name, at the place of the first. No values: remove them."""
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
    """Remove all lines of a name; there may be none."""
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
    """One more line."""
    bad = _bad_name(name)
    if bad is not None:
        return bad
    if not is_field_value(value):
        return _INVALID
    if fields.immutable:
        return _IMMUTABLE
    line = (name.lower(), value)
    cost = _cost(line)
    _check_size(fields.weight + cost)
    host.table.weigh(cost)
    fields.lines.append(line)
    fields.weight += cost
    return OK


@TYPES.function("[method]fields.entries", Borrow(Fields), result=List(Tuple((STRING, BYTES))))
def entries(_host: Host, fields: Fields) -> list[tuple[str, bytes]]:
    """All lines in order, names in lower case."""
    return fields.lines


@TYPES.function("[method]fields.clone", Borrow(Fields), result=Own(Fields))
def clone(_host: Host, fields: Fields) -> Fields:
    """A mutable copy."""
    return Fields(fields.lines)

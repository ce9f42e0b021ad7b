"""Fields of settings that describe themselves: key, unit, bounds, default and meaning travel in a field's metadata.

Everything that names a setting is made from these descriptions: the reading of sandboxd.yaml and of variables, the keys
of component metadata, error messages, metric labels, the documentation's tables and the JSON Schemas.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from enum import Enum, auto
from typing import Any, Final

from sandboxd.limits.units import Unit


class Kind(Enum):
    """The types of settings."""

    NUMBER = auto()
    FLAG = auto()
    TEXT = auto()
    CHOICE = auto()
    TEXTS = auto()
    CERTIFICATES = auto()
    FOLDER = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """The description of a setting."""

    key: str
    """Key in YAML, camelCase."""
    kind: Kind
    meaning: str
    unit: Unit = Unit.COUNT
    low: int = 0
    """Least value of a number, inclusive."""
    high: int = 0
    """Greatest value of a number, inclusive."""
    ceiling: int = 0
    """Of a limit: the most that a component may ask for unless sandboxd.yaml says otherwise. Otherwise 0."""
    error_codes: tuple[str, ...] = ()
    """Of a limit: the wasi-http error codes that tell a guest that it passed the limit."""
    choices: tuple[str, ...] = ()
    optional: bool = False
    """`null` is a value."""
    default_text: str = ""
    """The default in words, if it is computed."""

    def check(self, value: int) -> None:
        """Raise ValueError, naming the bound, unless low <= value <= high."""
        if value < self.low:
            raise ValueError(f"{self.unit.format(value)} is below the least allowed, {self.unit.format(self.low)}")
        if value > self.high:
            raise ValueError(f"{self.unit.format(value)} is above the most allowed, {self.unit.format(self.high)}")


_ABOUT: Final = "about"


def about_of(field: "dataclasses.Field[Any]") -> About | None:
    """Return the description of a field; None if it has none."""
    about: About | None = field.metadata.get(_ABOUT)
    return about


def described(kind: type) -> Iterator[tuple["dataclasses.Field[Any]", About]]:
    """Return the described fields of a dataclass, in their order."""
    for field in dataclasses.fields(kind):
        about = about_of(field)
        if about is not None:
            yield field, about


# The functions below return dataclass fields. They are typed Any for the reason dataclasses.field is: they stand where
# a default value of the field's own type is expected.
def _field(about: About, default: Any = MISSING, factory: Any = MISSING) -> Any:
    metadata: Mapping[str, Any] = {_ABOUT: about}
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def number(
    key: str,
    unit: Unit,
    low: int,
    high: int,
    meaning: str,
    *,
    default: int | None = None,
    factory: Callable[[], int] | None = None,
    text: str = "",
) -> Any:
    """Declare a number. It has either a `default`, or a `factory` and a `text`.

    Parameters:
        key: its key in YAML, camelCase.
        unit: the notation of its values.
        low, high: its bounds, inclusive, in milliseconds, bytes or a count by `unit`.
        meaning: for the documentation: a phrase without a full stop.
        default: the default.
        factory: computes the default.
        text: says in words what `factory` computes.
    """
    about = About(key=key, kind=Kind.NUMBER, unit=unit, low=low, high=high, meaning=meaning, default_text=text)
    return _field(about, factory=factory) if factory is not None else _field(about, default)


def limit(
    key: str,
    unit: Unit,
    low: int,
    high: int,
    meaning: str,
    *,
    default: int,
    ceiling: int,
    error_codes: tuple[str, ...] = (),
) -> Any:
    """Declare a limit of an invocation; see `About` for `ceiling` and `error_codes`."""
    about = About(
        key=key,
        kind=Kind.NUMBER,
        unit=unit,
        low=low,
        high=high,
        meaning=meaning,
        ceiling=ceiling,
        error_codes=error_codes,
    )
    return _field(about, default)


def flag(key: str, default: bool, meaning: str) -> Any:
    """Declare a setting that is true or false."""
    return _field(About(key=key, kind=Kind.FLAG, meaning=meaning), default)


def text(key: str, default: str | None, meaning: str, *, text: str = "") -> Any:
    """Declare a text; `null` is a value if the default is None."""
    about = About(key=key, kind=Kind.TEXT, meaning=meaning, optional=default is None, default_text=text)
    return _field(about, default)


def choice(key: str, choices: tuple[str, ...], meaning: str) -> Any:
    """Declare a setting that is one of several words; the first is the default."""
    return _field(About(key=key, kind=Kind.CHOICE, choices=choices, meaning=meaning), choices[0])


def texts(key: str, default: tuple[str, ...] | None, meaning: str, *, text: str = "") -> Any:
    """Declare a list of texts; `null` is a value if the default is None."""
    about = About(key=key, kind=Kind.TEXTS, meaning=meaning, optional=default is None, default_text=text)
    return _field(about, default)


def path(key: str, meaning: str, *, factory: Callable[[], Any], text: str) -> Any:
    """Declare a path."""
    return _field(About(key=key, kind=Kind.FOLDER, meaning=meaning, default_text=text), factory=factory)


def certificates(key: str, meaning: str) -> Any:
    """Declare a list of (origin, certificate file, key file)."""
    return _field(About(key=key, kind=Kind.CERTIFICATES, meaning=meaning), ())

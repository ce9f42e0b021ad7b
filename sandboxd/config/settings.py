"""The table of all settings, made from the dataclasses, and the conversion of each between text, YAML and value."""

import json
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from sandboxd.config.model import ABOUT, About, Config, Kind
from sandboxd.limit_keys import DEFAULT_CEILINGS, ENGINE, LIMITS, Bounded, Unit
from sandboxd.limits import EngineSettings, Limits
from sandboxd.yamltext import Mapping, Node, Scalar, Sequence, describe

_PREFIX: Final = "SANDBOXD_"
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CERTIFICATE_KEYS: Final = ("origin", "certificate", "key")

# Sections whose dataclasses stand in sandboxd.limits and are described by a table: attribute -> (keys, rows, defaults).
_TABLES: Final[dict[str, tuple[tuple[str, ...], tuple[Bounded, ...], Limits | EngineSettings]]] = {
    "limits": (("limits",), LIMITS, Limits()),
    "ceilings": (("limits", "ceilings"), LIMITS, DEFAULT_CEILINGS),
    "wasm": (("wasm",), ENGINE, EngineSettings()),
}


class UnfitError(ValueError):
    """A value does not fit its setting. The text says what was found and what is wanted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting: where it stands in Config, in YAML and in the environment."""

    section: str
    """Attribute of Config; empty for Config itself."""
    field: str
    """Attribute of the section."""
    path: tuple[str, ...]
    """Keys in sandboxd.yaml, outermost first."""
    about: About
    default: Any
    """The default; MISSING if it is computed when the settings are read."""

    @property
    def key(self) -> str:
        """`pool.queueLimit`."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """`SANDBOXD_POOL_QUEUE_LIMIT`."""
        return _PREFIX + "_".join(_WORDS.sub("_", key) for key in self.path).upper()

    def from_text(self, text: str) -> Any:
        """The value a variable or command-line option stands for. Lists are comma-separated, or JSON.

        Raises:
            ValueError: it stands for none; the text says what was expected.
        """
        kind = self.about.kind
        if self.about.optional and text == "" and kind is not Kind.TEXTS:
            return None
        if kind is Kind.NUMBER:
            return self._bounded(self.about.unit.parse(text))
        if kind is Kind.FLAG:
            if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
                raise UnfitError("neither true nor false")
            return text.lower() in ("true", "1", "yes", "on")
        if kind is Kind.TEXTS:
            return _texts_from_text(text)
        if kind is Kind.CERTIFICATES:
            return _certificates(_json(text) if text else [])
        return self._from_string(text)

    def from_node(self, node: Node) -> Any:
        """The value a node of sandboxd.yaml stands for.

        Raises:
            ValueError: it stands for none; the text says what was expected.
        """
        kind = self.about.kind
        if self.about.optional and isinstance(node, Scalar) and node.value is None:
            return None
        if kind is Kind.NUMBER:
            return self._bounded(self._number_from_node(node))
        if kind is Kind.FLAG:
            if not (isinstance(node, Scalar) and isinstance(node.value, bool)):
                raise UnfitError(f"{describe(node)} where true or false is wanted")
            return node.value
        if kind is Kind.TEXTS:
            if not isinstance(node, Sequence):
                raise UnfitError(f"{describe(node)} where a list of texts is wanted")
            return tuple(_checked(_string_of(item)) for item in node.items)
        if kind is Kind.CERTIFICATES:
            return _certificates(_plain(node))
        return self._from_string(_string_of(node))

    def to_yaml(self, value: Any) -> Any:
        """What yaml.safe_dump writes so that from_node reads `value` back."""
        match self.about.kind:
            case Kind.NUMBER if self.about.unit is not Unit.COUNT:
                return self.about.unit.format(value)
            case Kind.TEXTS if value is not None:
                return list(value)
            case Kind.CERTIFICATES:
                return [dict(zip(_CERTIFICATE_KEYS, entry, strict=True)) for entry in value]
            case Kind.FOLDER:
                return str(value)
            case _:
                return value

    def _number_from_node(self, node: Node) -> int:
        unit = self.about.unit
        if not isinstance(node, Scalar):
            raise UnfitError(f"{describe(node)} where a number is wanted")
        value = node.value
        if isinstance(value, str) and unit is not Unit.COUNT:
            return unit.parse(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if unit is Unit.DURATION and value != 0:
                raise UnfitError(f"a duration without a unit; write {value}s or {value}ms")
            return value
        raise UnfitError(f"{describe(node)} where {_WANTED[unit]} is wanted")

    def _bounded(self, value: int) -> int:
        about = self.about
        row = Bounded(
            field=self.field, key=self.key, unit=about.unit, low=about.low, high=about.high, meaning=about.meaning
        )
        row.check(value)
        return value

    def _from_string(self, text: str) -> Any:
        _checked(text)
        if self.about.kind is Kind.CHOICE and text not in self.about.choices:
            raise UnfitError(f"{text!r} is none of {', '.join(self.about.choices)}")
        if self.about.kind is Kind.FOLDER:
            if not text:
                raise UnfitError("an empty path")
            return Path(text)
        return text


_WANTED = {
    Unit.COUNT: "a whole number",
    Unit.SIZE: "a size such as 64Ki",
    Unit.DURATION: "a duration such as 5s",
}


@cache
def settings() -> tuple[Setting, ...]:
    """Every setting, in the order of the documentation."""
    found: list[Setting] = []
    for top in fields(Config):
        if ABOUT in top.metadata:
            found.append(_of_field("", (), top))
        elif top.name in _TABLES:
            path, rows, defaults = _TABLES[top.name]
            found.extend(_of_row(top.name, path, row, getattr(defaults, row.field)) for row in rows)
        elif isinstance(top.type, type) and is_dataclass(top.type):
            found.extend(_of_field(top.name, (top.name,), inner) for inner in fields(top.type))
    return tuple(found)


def _of_field(section: str, path: tuple[str, ...], field: Any) -> Setting:
    about: About = field.metadata[ABOUT]
    return Setting(section=section, field=field.name, path=(*path, about.key), about=about, default=field.default)


def _of_row(section: str, path: tuple[str, ...], row: Bounded, default: int) -> Setting:
    about = About(key=row.key, kind=Kind.NUMBER, unit=row.unit, low=row.low, high=row.high, meaning=row.meaning)
    return Setting(section=section, field=row.field, path=(*path, row.key), about=about, default=default)


def is_computed(setting: Setting) -> bool:
    """Whether the default depends on the machine or the environment."""
    return setting.default is MISSING


def _string_of(node: Node) -> str:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    raise UnfitError(
        f"{describe(node)} where text is wanted" + (", put it in quotes" if isinstance(node, Scalar) else "")
    )


def _checked(text: str) -> str:
    if any(ord(c) < 0x20 or ord(c) == 0x7F or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise UnfitError("text with a control character")
    return text


def _texts_from_text(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith("["):
        items = _json(text)
        if not (isinstance(items, list) and all(isinstance(item, str) for item in items)):
            raise UnfitError("a JSON list that holds other things than texts")
        return tuple(_checked(item) for item in items)
    return tuple(_checked(item.strip()) for item in text.split(",") if item.strip())


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise UnfitError("JSON nested too deeply") from None
    except ValueError as error:
        raise UnfitError(f"not JSON: {error}") from None


def _plain(node: Node) -> Any:
    match node:
        case Sequence(items=items):
            return [_plain(item) for item in items]
        case Mapping(entries=entries):
            return {key: _plain(value) for key, value in entries.items()}
        case Scalar(value=value):
            return value


def _certificates(items: Any) -> tuple[tuple[str, str, str], ...]:
    wanted = "a list of mappings with origin, certificate and key"
    if not isinstance(items, list):
        raise UnfitError(f"not {wanted}")
    found = []
    for item in items:
        if not (isinstance(item, dict) and sorted(item) == sorted(_CERTIFICATE_KEYS)):
            raise UnfitError(f"not {wanted}")
        origin, certificate, key = (item[name] for name in _CERTIFICATE_KEYS)
        if not (isinstance(origin, str) and isinstance(certificate, str) and isinstance(key, str)):
            raise UnfitError(f"not {wanted}, each of them text")
        found.append((_checked(origin), _checked(certificate), _checked(key)))
    return tuple(found)

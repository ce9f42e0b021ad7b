"""The table of all settings, made from the dataclasses. Converts each setting between text, YAML and value."""

import json
import re
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from sandboxd.config.model import KEYS, Config
from sandboxd.files.yamltext import Mapping, Node, Scalar, Sequence, describe
from sandboxd.limits.about import About, Kind, about_of, described
from sandboxd.limits.units import Unit

_PREFIX: Final = "SANDBOXD_"
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
CERTIFICATE_KEYS: Final = ("origin", "certificate", "key")


class UnfitError(ValueError):
    """A value does not fit its setting. The message names what was found, or what was expected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting: its place in Config, in YAML and in the environment."""

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
        """Convert the text of a variable or command-line option. Lists are comma-separated or JSON.

        Raises:
            ValueError: the text does not fit; the message says what was expected.
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
        """Convert a node of sandboxd.yaml.

        Raises:
            ValueError: the node does not fit; the message says what was expected.
        """
        kind = self.about.kind
        if self.about.optional and isinstance(node, Scalar) and node.value is None:
            return None
        if kind is Kind.NUMBER:
            return self._bounded(self._number_from_node(node))
        if kind is Kind.FLAG:
            if not (isinstance(node, Scalar) and isinstance(node.value, bool)):
                raise UnfitError(f"{describe(node)} where true or false is expected")
            return node.value
        if kind is Kind.TEXTS:
            if not isinstance(node, Sequence):
                raise UnfitError(f"{describe(node)} where a list of texts is expected")
            return tuple(_checked(_string_of(item)) for item in node.items)
        if kind is Kind.CERTIFICATES:
            return _certificates(_plain(node))
        return self._from_string(_string_of(node))

    def to_yaml(self, value: Any) -> Any:
        """Return a value that yaml.safe_dump writes so that `from_node` reads `value` back."""
        match self.about.kind:
            case Kind.NUMBER if self.about.unit is not Unit.COUNT:
                return self.about.unit.format(value)
            case Kind.TEXTS if value is not None:
                return list(value)
            case Kind.CERTIFICATES:
                return [dict(zip(CERTIFICATE_KEYS, entry, strict=True)) for entry in value]
            case Kind.FOLDER:
                return str(value)
            case _:
                return value

    def _number_from_node(self, node: Node) -> int:
        unit = self.about.unit
        if not isinstance(node, Scalar):
            raise UnfitError(f"{describe(node)} where a number is expected")
        value = node.value
        if isinstance(value, str) and unit is not Unit.COUNT:
            return unit.parse(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if unit is Unit.DURATION and value != 0:
                raise UnfitError(f"a duration without a unit; write {value}s or {value}ms")
            return value
        raise UnfitError(f"{describe(node)} where {_EXPECTED[unit]} is expected")

    def _bounded(self, value: int) -> int:
        self.about.check(value)
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


_EXPECTED = {
    Unit.COUNT: "a whole number",
    Unit.SIZE: "a size such as 64Ki",
    Unit.DURATION: "a duration such as 5s",
}


@cache
def settings() -> tuple[Setting, ...]:
    """Return every setting, in the order of the documentation."""
    found: list[Setting] = []
    for top in fields(Config):
        about = about_of(top)
        if about is not None:
            found.append(Setting(section="", field=top.name, path=(about.key,), about=about, default=top.default))
        elif isinstance(top.type, type) and is_dataclass(top.type):
            path = top.metadata.get(KEYS, (top.name,))
            for inner, about in described(top.type):
                # A section may have other defaults than its class: the ceilings are Limits too.
                default = inner.default if top.default is MISSING else getattr(top.default, inner.name)
                keys = (*path, about.key)
                found.append(Setting(section=top.name, field=inner.name, path=keys, about=about, default=default))
    return tuple(found)


def is_computed(setting: Setting) -> bool:
    """Return whether the default depends on the machine or the environment."""
    return setting.default is MISSING


def _string_of(node: Node) -> str:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    raise UnfitError(
        f"{describe(node)} where text is expected" + (", put it in quotes" if isinstance(node, Scalar) else "")
    )


def _checked(text: str) -> str:
    if any(ord(c) < 0x20 or ord(c) == 0x7F or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise UnfitError("text with a control character")
    return text


def _texts_from_text(text: str) -> tuple[str, ...]:
    if text.lstrip().startswith("["):
        items = _json(text)
        if not (isinstance(items, list) and all(isinstance(item, str) for item in items)):
            raise UnfitError("a JSON list with values that are not texts")
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
        if not (isinstance(item, dict) and sorted(item) == sorted(CERTIFICATE_KEYS)):
            raise UnfitError(f"not {wanted}")
        origin, certificate, key = (item[name] for name in CERTIFICATE_KEYS)
        if not (isinstance(origin, str) and isinstance(certificate, str) and isinstance(key, str)):
            raise UnfitError(f"not {wanted}, each of them text")
        found.append((_checked(origin), _checked(certificate), _checked(key)))
    return tuple(found)

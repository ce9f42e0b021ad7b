"""Reads untrusted YAML within bounds and with line numbers.

Tags never construct Python objects. A document is a tree of three kinds of nodes, each with its line. Plain scalars get
the types that Dapr's YAML library gives them (goyaml.v2 resolve.go, under sigs.k8s.io/yaml): YAML 1.1's `yes`/`on`/`y`,
Go's notations of integers, timestamps as text. The tree is built from parser events. PyYAML's composer is not used,
because it recurses once per level and has no bound on aliases.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

import yaml

from sandboxd.files.yamlscanner import GoLoader
from sandboxd.gojson.floats import general_float

MAX_NODES = 20_000
"""The most nodes of one document. Every alias counts as the nodes it repeats, which bounds `billion laughs`."""
MAX_DEPTH = 64
"""The most levels of nesting."""

_INT = re.compile(r"[-+]?(?:0[bB][01]+|0[oO]?[0-7]+|0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_CORE + name for name in ("str", "int", "float", "bool", "null", "timestamp")}
_MERGE = "<<"
_MAX_MESSAGE = 500


class YamlError(Exception):
    """A document cannot be read. `line` counts from 1; it is 0 if the error has no line."""

    def __init__(self, message: str, line: int = 0) -> None:
        if len(message) > _MAX_MESSAGE:  # it may quote a tag or key that is as long as the file
            message = message[:_MAX_MESSAGE] + "..."
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf: its value and its text."""

    value: str | int | float | bool | None
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes."""

    items: list["Node"]
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Nodes by key. Of duplicate keys the last counts, as in Dapr; Document.duplicates lists them."""

    entries: dict[str, "Node"]
    key_lines: dict[str, int]
    line: int


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `root` is None if it is empty."""

    root: Node | None
    duplicates: list[tuple[str, int]] = field(default_factory=list)
    """The (key, line) of every key that repeats an earlier key of its mapping."""


def describe(node: Node) -> str:
    """Return the kind of a node for messages: `text`, `a number`, `true or false`, `nothing`, `a list`, `a mapping`."""
    match node:
        case Sequence():
            return "a list"
        case Mapping():
            return "a mapping"
        case Scalar(value=bool()):
            return "true or false"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=str()):
            return "text"
        case _:
            return "a number"


def parse(text: str, *, first_line: int = 1) -> Document:
    """Parse the first document of `text`. Later documents are not read.

    Parameters:
        text: YAML.
        first_line: the line number of its first line in the file.

    Raises:
        YamlError: the text is not YAML, has a tag other than the core ones, or exceeds MAX_NODES or MAX_DEPTH.
    """
    try:
        return _Builder(text, first_line).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"not YAML: {what}", 0 if mark is None else mark.line + first_line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + first_line
        raise YamlError(f"not YAML: character #x{_code(error):04x} is not allowed", line) from None
    except yaml.YAMLError as error:
        raise YamlError(f"not YAML: {error}") from None
    except (ValueError, OverflowError) as error:
        # PyYAML does not catch what chr() raises for "\UFFFFFFFF" and int() for very long version numbers.
        raise YamlError(f"not YAML: {error}") from None


def _code(error: yaml.reader.ReaderError) -> int:
    character = error.character
    return ord(character) if isinstance(character, str) else int(character)


class _Builder:
    """Builds the nodes of one document from parser events."""

    def __init__(self, text: str, first_line: int) -> None:
        self._events: Iterator[yaml.Event] = GoLoader(text).events()
        self._first_line = first_line
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open: set[str] = set()
        self._nodes = 0
        self._duplicates: list[tuple[str, int]] = []

    def document(self) -> Document:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, 1)
            elif isinstance(event, yaml.DocumentEndEvent):
                break
        if isinstance(root, Scalar) and root.value is None:
            root = None
        return Document(root, self._duplicates)

    def _line(self, event: yaml.Event) -> int:
        mark = event.start_mark
        assert mark is not None  # the pure Python parser marks every event
        return int(mark.line) + self._first_line

    def _fail(self, message: str, event: yaml.Event) -> NoReturn:
        raise YamlError(message, self._line(event))

    def _count(self, more: int, event: yaml.Event) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            self._fail(f"over {MAX_NODES} values, counting each alias as the values it repeats", event)

    def _node(self, event: yaml.NodeEvent, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH} levels", event)
        self._count(1, event)
        before = self._nodes
        anchor: str | None = event.anchor
        if anchor is not None:
            self._anchors.pop(anchor, None)
            self._open.add(anchor)
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            node = self._sequence(event, depth)
        else:
            self._check_tag(event, "map")
            node = self._mapping(event, depth)
        if anchor is not None:
            self._open.discard(anchor)
            self._anchors[anchor] = (node, self._nodes - before + 1)
        return node

    def _alias(self, event: yaml.AliasEvent) -> Node:
        if event.anchor in self._open:
            self._fail(f"*{event.anchor} is inside the value to which it refers", event)
        if event.anchor not in self._anchors:
            self._fail(f"*{event.anchor} refers to nothing", event)
        node, size = self._anchors[event.anchor]
        self._count(size, event)
        return node

    def _check_tag(self, event: yaml.NodeEvent, kind: str) -> None:
        tag = getattr(event, "tag", None)
        if tag not in (None, "!", _CORE + kind):
            self._fail(f"tag {tag} is not allowed", event)

    def _children(self, end: type[yaml.Event]) -> Iterator[yaml.NodeEvent]:
        for event in self._events:
            if isinstance(event, end):
                return
            assert isinstance(event, yaml.NodeEvent)
            yield event

    def _sequence(self, event: yaml.NodeEvent, depth: int) -> Sequence:
        items = [self._node(child, depth + 1) for child in self._children(yaml.SequenceEndEvent)]
        return Sequence(items, self._line(event))

    def _mapping(self, event: yaml.NodeEvent, depth: int) -> Mapping:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        merged: list[Mapping] = []
        children = self._children(yaml.MappingEndEvent)
        for child in children:
            line = self._line(child)
            key = self._node(child, depth + 1)
            value = self._node(next(children), depth + 1)
            if key == Scalar(_MERGE, _MERGE, line) and isinstance(child, yaml.ScalarEvent) and child.style is None:
                merged.extend(self._merged(value, child))
                continue
            name = self._key(key, child)
            if name in entries:
                self._duplicates.append((name, line))
            entries[name] = value
            lines[name] = line
        for source in merged:
            for name, value in source.entries.items():
                self._count(1, event)
                if name not in entries:
                    entries[name] = value
                    lines[name] = source.key_lines[name]
        return Mapping(entries, lines, self._line(event))

    def _merged(self, value: Node, event: yaml.Event) -> list[Mapping]:
        sources = value.items if isinstance(value, Sequence) else [value]
        found = [source for source in sources if isinstance(source, Mapping)]
        if len(found) != len(sources):
            self._fail("<< needs a mapping or a list of mappings", event)
        return found

    def _key(self, key: Node, event: yaml.Event) -> str:
        if not isinstance(key, Scalar) or key.value is None:
            self._fail(f"a key is {describe(key)}; keys are text", event)
        return scalar_text(key)

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text: str = event.value
        if any("\ud800" <= c <= "\udfff" for c in text):
            self._fail("an unpaired surrogate, which is not a character", event)
        line = self._line(event)
        tag: str | None = event.tag
        if tag == "!" or (tag is None and not event.implicit[0]):
            return Scalar(text, text, line)
        if tag is None:
            return Scalar(plain_scalar(text), text, line)
        if tag not in _SCALAR_TAGS:
            self._fail(f"tag {tag} is not allowed", event)
        if tag in (_CORE + "str", _CORE + "timestamp"):
            return Scalar(text, text, line)
        value = plain_scalar(text)
        wanted: dict[str, tuple[type, ...]] = {
            _CORE + "int": (int,),
            _CORE + "float": (int, float),
            _CORE + "bool": (bool,),
            _CORE + "null": (type(None),),
        }
        if not isinstance(value, wanted[tag]) or (isinstance(value, bool) and bool not in wanted[tag]):
            self._fail(f"the value is not the {tag.removeprefix(_CORE)} that its tag requires", event)
        if tag == _CORE + "float" and isinstance(value, int):
            value = float(value)
        return Scalar(value, text, line)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Return the value of a plain (unquoted) scalar, typed as by goyaml.v2."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    if not text or text[0] not in "+-.0123456789" or len(text) > 400:
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    if _INT.fullmatch(plain):
        value = _integer(plain)
        # Go uses float64 for an integer that does not fit 64 bits.
        return value if -(1 << 63) <= value < (1 << 64) else float(value)
    if _FLOAT.fullmatch(plain) and abs(float(plain)) != float("inf"):
        return float(plain)
    return text


def _integer(plain: str) -> int:
    digits = plain.lstrip("+-")
    sign = -1 if plain.startswith("-") else 1
    if len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567":
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def scalar_text(node: Scalar) -> str:
    """Return a scalar as text: `123` and `true` become text as sigs.k8s.io/yaml converts them."""
    match node.value:
        case None:
            return ""
        case bool(value):
            return "true" if value else "false"
        case float(value):
            return general_float(value)
        case value:
            return str(value)

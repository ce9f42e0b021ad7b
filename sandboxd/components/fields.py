"""Finds and reads the fields of a YAML document as Go's encoding/json does for Dapr's Go structs.

Source: dapr pkg/apis/components/v1alpha1/types.go.
"""

from sandboxd.files.yamltext import Mapping, Node, Scalar, Sequence, describe, scalar_text


class ManifestError(Exception):
    """A document has the wanted kind but is not valid. `line` is the line of the fault in the file."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def field(parent: Mapping, key: str) -> Node | None:
    """Return a field as encoding/json finds it: by its exact name, or else in any case. None if absent or null."""
    node = parent.entries.get(key)
    if node is None:
        node = next((value for name, value in parent.entries.items() if name.lower() == key.lower()), None)
    return None if isinstance(node, Scalar) and node.value is None else node


def plain(parent: Mapping, key: str) -> str:
    """Return a field that is text; empty for any other."""
    node = field(parent, key)
    return node.value if isinstance(node, Scalar) and isinstance(node.value, str) else ""


def text(parent: Mapping, key: str) -> str:
    """Return a field as text; empty if it is absent.

    Raises:
        ManifestError: it is a mapping or a list.
    """
    node = field(parent, key)
    return "" if node is None else string(node, key)


def string(node: Node, key: str) -> str:
    """Return a scalar's text. `key` is its field's name, for the message.

    Raises:
        ManifestError: it is a mapping or a list.
    """
    if not isinstance(node, Scalar):
        raise ManifestError(f"{key} is {describe(node)} where text is expected", node.line)
    return scalar_text(node)


def flag(parent: Mapping, key: str) -> bool:
    """Return a field that is true or false; False if it is absent.

    Raises:
        ManifestError: it is neither.
    """
    node = field(parent, key)
    if node is None:
        return False
    if not (isinstance(node, Scalar) and isinstance(node.value, bool)):
        raise ManifestError(f"{key} is {describe(node)} where true or false is expected", node.line)
    return node.value


def mapping(parent: Mapping, key: str) -> Mapping:
    """Return a field that is a mapping; an empty one if it is absent.

    Raises:
        ManifestError: it is something else.
    """
    node = field(parent, key)
    if node is None:
        return Mapping({}, {}, parent.line)
    if not isinstance(node, Mapping):
        raise ManifestError(f"{key} is {describe(node)} where a mapping is expected", node.line)
    return node


def sequence(parent: Mapping, key: str) -> list[Node]:
    """Return the entries of a field that is a list; none if it is absent.

    Raises:
        ManifestError: it is something else.
    """
    node = field(parent, key)
    if node is None:
        return []
    if not isinstance(node, Sequence):
        raise ManifestError(f"{key} is {describe(node)} where a list is expected", node.line)
    return node.items

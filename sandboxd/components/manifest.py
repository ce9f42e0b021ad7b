"""Reads the fields of a Component resource as they are written.

Source: dapr pkg/apis/components/v1alpha1/types.go, pkg/apis/common/namevalue.go.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxd.components import fields
from sandboxd.components.documents import Resource
from sandboxd.components.fields import ManifestError
from sandboxd.files.yamltext import Mapping, Node, Scalar, Sequence, describe, scalar_text
from sandboxd.gojson.floats import json_float
from sandboxd.gojson.text import quote


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One entry of spec.metadata as written."""

    name: str
    value: str | None
    """None if it is absent or null; only then is envRef used."""
    env_ref: str
    secret_name: str
    secret_key: str
    line: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A Component as written."""

    name: str
    namespace: str
    type: str
    version: str
    ignore_errors: bool
    init_timeout: str
    items: tuple[Item, ...]
    secret_store: str
    scopes: tuple[str, ...]
    path: Path
    line: int
    unknown: tuple[tuple[str, int], ...] = ()
    """The keys of the document that are not in COMPONENT_KEYS, and their lines."""

    @property
    def log_name(self) -> str:
        """`name (type/version)`, as in Dapr's messages."""
        return f"{self.name} ({self.type}/{self.version})"


COMPONENT_KEYS: Final = ("apiVersion", "kind", "metadata", "spec", "auth", "scopes", "status")
"""The keys of a Component document."""
_KEYS_LOWER: Final = frozenset(key.lower() for key in COMPONENT_KEYS)


def decode(resource: Resource) -> Manifest:
    """Return the fields of a Component.

    Raises:
        ManifestError: a field has the wrong type, or metadata.name cannot be a path segment.
    """
    root = resource.root
    metadata = fields.mapping(root, "metadata")
    spec = fields.mapping(root, "spec")
    auth = fields.mapping(root, "auth")
    _check_object(metadata)
    name = fields.text(metadata, "name")
    faults = path_segment_faults(name)
    if faults:
        line = metadata.key_lines.get("name", metadata.line)
        raise ManifestError(f'invalid name {json.dumps(name)} for "Component": {"; ".join(faults)}', line)
    return Manifest(
        name=name,
        namespace=fields.text(metadata, "namespace"),
        type=fields.text(spec, "type"),
        version=fields.text(spec, "version"),
        ignore_errors=fields.flag(spec, "ignoreErrors"),
        init_timeout=fields.text(spec, "initTimeout"),
        items=tuple(_item(node) for node in fields.sequence(spec, "metadata")),
        secret_store=fields.text(auth, "secretStore"),
        scopes=tuple(fields.string(node, "scopes") for node in fields.sequence(root, "scopes")),
        path=resource.path,
        line=resource.line,
        unknown=tuple(
            (key, root.key_lines.get(key, root.line)) for key in root.entries if key.lower() not in _KEYS_LOWER
        ),
    )


def _check_object(metadata: Mapping) -> None:
    """Raise ManifestError if a field of Kubernetes' ObjectMeta beside the name has the wrong type."""
    for key in ("labels", "annotations"):
        for name, node in fields.mapping(metadata, key).entries.items():
            fields.string(node, f"{key}.{name}")
    for key in ("finalizers", "ownerReferences", "managedFields"):
        fields.sequence(metadata, key)
    for key in ("generateName", "selfLink", "uid", "resourceVersion"):
        fields.text(metadata, key)
    generation = fields.field(metadata, "generation")
    if generation is not None and not (isinstance(generation, Scalar) and type(generation.value) is int):
        raise ManifestError(f"generation is {describe(generation)} where a whole number is expected", generation.line)


def path_segment_faults(name: str) -> list[str]:
    """Return the reasons why `name` cannot be a path segment; empty if it can.

    Source: k8s.io/apimachinery pkg/api/validation/path/name.go. Kubernetes accepts an empty name; here it is a fault,
    because no request could reach the component.
    """
    if name == "":
        return ["may not be empty"]
    if name in (".", ".."):
        return [f"may not be '{name}'"]
    return [f"may not contain '{part}'" for part in ("/", "%") if part in name]


def _item(node: Node) -> Item:
    if not isinstance(node, Mapping):
        raise ManifestError(f"an entry of spec.metadata is {describe(node)}, not a mapping", node.line)
    reference = fields.mapping(node, "secretKeyRef")
    value = fields.field(node, "value")
    return Item(
        name=fields.text(node, "name"),
        value=None if value is None else _dynamic(value),
        env_ref=fields.text(node, "envRef"),
        secret_name=fields.text(reference, "name"),
        secret_key=fields.text(reference, "key"),
        line=node.line,
    )


def _dynamic(node: Node) -> str:
    """Return a DynamicValue as text: a string unchanged, anything else as JSON (namevalue.go, DynamicValue.String)."""
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    return _json(node)


def _json(node: Node) -> str:
    """Return JSON as Go's json.Marshal writes it: compact, with sorted keys, and with `<`, `>` and `&` escaped."""
    match node:
        case Sequence(items=items):
            return "[" + ",".join(_json(item) for item in items) + "]"
        case Mapping(entries=entries):
            ordered = sorted(entries, key=lambda key: key.encode())
            return "{" + ",".join(f"{quote(key)}:{_json(entries[key])}" for key in ordered) + "}"
        case Scalar(value=str(value)):
            return quote(value)
        case Scalar(value=None):
            return "null"
        case Scalar(value=float(value)):
            try:
                return json_float(value)
            except ValueError as error:
                raise ManifestError(str(error), node.line) from None
        case _:
            return scalar_text(node)

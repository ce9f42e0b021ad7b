"""Component files: folders, documents in a file, and the fields of a Component.

Behaviour copied from Dapr: pkg/internal/loader/disk/manifest.go, pkg/apis/components/v1alpha1/types.go,
pkg/apis/common/namevalue.go. Where Dapr hangs (a document over 64 KiB) the document is read and a note says so.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandboxd.filetext import FileTextError, read_text
from sandboxd.problems import Problem, Severity
from sandboxd.yamltext import (
    Document,
    Mapping,
    Node,
    Scalar,
    Sequence,
    YamlError,
    describe,
    json_number,
    parse,
    scalar_text,
)

MAX_FILE_BYTES: Final = 1024 * 1024
"""Longest component file."""
DAPR_DOCUMENT_BYTES: Final = 64 * 1024
"""Dapr's reader (Go's bufio.Scanner) never finishes on a document longer than this."""
API_VERSION: Final = "dapr.io/v1alpha1"

_SEPARATOR = re.compile(r"\n---([^\n]*)(?:\n|\Z)")


class ManifestError(Exception):
    """A document says kind: Component and is none. `line` is the file's."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A document of the wanted kind."""

    path: Path
    line: int
    """The line its first key stands in."""
    root: Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One entry of spec.metadata, nothing resolved yet."""

    name: str
    value: str | None
    """None if there is none, or null: only then does envRef count."""
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

    @property
    def log_name(self) -> str:
        """`name (type/version)`, as Dapr's messages have it."""
        return f"{self.name} ({self.type}/{self.version})"


class Findings:
    """Collects problems, each about a file or a component."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(
        self, severity: Severity, message: str, remedy: str = "", *, path: Path, line: int = 0, component: str = ""
    ) -> None:
        """Record one problem."""
        self.problems.append(
            Problem(severity=severity, message=message, remedy=remedy, file=path, line=line, component=component)
        )


def read_folder(folder: Path, kind: str, findings: Findings) -> Iterator[Resource]:
    """The documents of `kind` in the YAML files of a folder, files in the order of their names' bytes.

    Subfolders, other kinds and other API versions are passed over; what cannot be read becomes a problem.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted((os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        findings.add(Severity.ERROR, f"the folder cannot be read: {why}", "check --resources-path", path=folder)
        return
    for raw, is_folder in names:
        name = os.fsdecode(raw)
        # Mounted ConfigMaps keep their content in ..data and ..2024_01_01; their files are links into it.
        if is_folder or name.startswith(".."):
            continue
        if os.path.splitext(name)[1].lower() not in (".yaml", ".yml"):
            message = f"A non-YAML {kind} file {name} was detected, it will not be loaded"
            findings.add(Severity.NOTE, message, path=folder / name)
            continue
        yield from read_file(folder / name, kind, findings)


def read_file(path: Path, kind: str, findings: Findings) -> Iterator[Resource]:
    """The documents of `kind` in one file. Those that cannot be read become warnings, and the others are still found.

    A file that cannot be opened is a warning too, as in Dapr; one that is too long, or no text, is an error.
    """
    try:
        text = read_text(path, max_bytes=MAX_FILE_BYTES)
    except FileTextError as error:
        unusual = path.is_file()
        findings.add(
            Severity.ERROR if unusual and os.access(path, os.R_OK) else Severity.WARNING,
            f"load {kind} error when opening file {path.name}: {error}",
            f"component files are UTF-8 text of at most {MAX_FILE_BYTES} bytes" if unusual else "",
            path=path,
        )
        return
    for first_line, document in _split(text, path, findings):
        try:
            parsed = parse(document, first_line=first_line)
            resource = _of_kind(parsed, kind, path)
        except (YamlError, ManifestError) as error:
            _skipped(kind, error, path, findings)
            continue
        if resource is None:
            continue
        for key, line in parsed.duplicates:
            findings.add(
                Severity.WARNING, f"{key} is set twice in one mapping; the last one counts", path=path, line=line
            )
        if len(document.encode()) > DAPR_DOCUMENT_BYTES:
            findings.add(
                Severity.NOTE,
                f"a document over {DAPR_DOCUMENT_BYTES} bytes, which sandboxd reads and daprd hangs on",
                path=path,
                line=resource.line,
            )
        yield resource


def _skipped(kind: str, error: YamlError | ManifestError, path: Path, findings: Findings) -> None:
    findings.add(
        Severity.WARNING,
        f"load {kind} error when parsing manifests yaml resource in {path.name}: {error.message}",
        "the document is left out; repair it",
        path=path,
        line=error.line,
    )


def _split(text: str, path: Path, findings: Findings) -> Iterator[tuple[int, str]]:
    """(first line, text) of the documents between `---` lines."""
    at, line = 0, 1
    for separator in _SEPARATOR.finditer(text):
        yield line, text[at : separator.start()]
        line += text.count("\n", at, separator.end())
        at = separator.end()
        rest = separator[1].strip()
        if rest and not rest.startswith("#"):
            findings.add(
                Severity.WARNING,
                "what stands behind --- in its line is not read",
                "put it into the next line",
                path=path,
                line=line - 1,
            )
    yield line, text[at:]


def _of_kind(document: Document, kind: str, path: Path) -> Resource | None:
    root = document.root
    if root is None:
        return None
    if not isinstance(root, Mapping):
        raise ManifestError(f"the document is {describe(root)}, not a mapping", root.line)
    if _text(root, "apiVersion") != API_VERSION or _text(root, "kind") != kind:
        return None
    return Resource(path=path, line=root.line, root=root)


def decode(resource: Resource) -> Manifest:
    """The fields of a Component.

    Raises:
        ManifestError: a field has the wrong type, or metadata.name cannot be a path segment.
    """
    root = resource.root
    metadata = _mapping(root, "metadata")
    spec = _mapping(root, "spec")
    auth = _mapping(root, "auth")
    name = _text(metadata, "name")
    faults = path_segment_faults(name)
    if faults:
        line = metadata.key_lines.get("name", metadata.line)
        raise ManifestError(f'invalid name {json.dumps(name)} for "Component": {"; ".join(faults)}', line)
    return Manifest(
        name=name,
        namespace=_text(metadata, "namespace"),
        type=_text(spec, "type"),
        version=_text(spec, "version"),
        ignore_errors=_flag(spec, "ignoreErrors"),
        init_timeout=_text(spec, "initTimeout"),
        items=tuple(_item(node) for node in _list(spec, "metadata")),
        secret_store=_text(auth, "secretStore"),
        scopes=tuple(_string(node, "scopes") for node in _list(root, "scopes")),
        path=resource.path,
        line=resource.line,
    )


def path_segment_faults(name: str) -> list[str]:
    """Why `name` is no path segment; empty if it is one.

    Source: k8s.io/apimachinery pkg/api/validation/path/name.go. An empty name, which that lets pass, is a fault here:
    no request could reach it.
    """
    if name == "":
        return ["may not be empty"]
    if name in (".", ".."):
        return [f"may not be '{name}'"]
    return [f"may not contain '{part}'" for part in ("/", "%") if part in name]


def _item(node: Node) -> Item:
    if not isinstance(node, Mapping):
        raise ManifestError(f"an entry of spec.metadata is {describe(node)}, not a mapping", node.line)
    reference = _mapping(node, "secretKeyRef")
    value = _field(node, "value")
    return Item(
        name=_text(node, "name"),
        value=None if value is None else _dynamic(value),
        env_ref=_text(node, "envRef"),
        secret_name=_text(reference, "name"),
        secret_key=_text(reference, "key"),
        line=node.line,
    )


def _dynamic(node: Node) -> str:
    """A DynamicValue as text: strings as they are, everything else as JSON (namevalue.go, DynamicValue.String)."""
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    return _json(node)


def _json(node: Node) -> str:
    """JSON as Go's json.Marshal writes it: compact, keys sorted, `<`, `>` and `&` escaped."""
    match node:
        case Sequence(items=items):
            return "[" + ",".join(_json(item) for item in items) + "]"
        case Mapping(entries=entries):
            ordered = sorted(entries, key=lambda key: key.encode())
            return "{" + ",".join(f"{_json_string(key)}:{_json(entries[key])}" for key in ordered) + "}"
        case Scalar(value=str(value)):
            return _json_string(value)
        case Scalar(value=None):
            return "null"
        case Scalar(value=float(value)):
            try:
                return json_number(value)
            except ValueError as error:
                raise ManifestError(str(error), node.line) from None
        case _:
            return scalar_text(node)


def _json_string(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        quoted = quoted.replace(character, f"\\u{ord(character):04x}")
    return quoted


def _field(mapping: Mapping, key: str) -> Node | None:
    """A field as encoding/json finds it: by its exact name, else in any case. None if absent or null."""
    node = mapping.entries.get(key)
    if node is None:
        node = next((value for name, value in mapping.entries.items() if name.lower() == key.lower()), None)
    return None if isinstance(node, Scalar) and node.value is None else node


def _text(mapping: Mapping, key: str) -> str:
    node = _field(mapping, key)
    return "" if node is None else _string(node, key)


def _string(node: Node, key: str) -> str:
    if not isinstance(node, Scalar):
        raise ManifestError(f"{key} is {describe(node)} where text is wanted", node.line)
    return scalar_text(node)


def _flag(mapping: Mapping, key: str) -> bool:
    node = _field(mapping, key)
    if node is None:
        return False
    if not (isinstance(node, Scalar) and isinstance(node.value, bool)):
        raise ManifestError(f"{key} is {describe(node)} where true or false is wanted", node.line)
    return node.value


def _mapping(mapping: Mapping, key: str) -> Mapping:
    node = _field(mapping, key)
    if node is None:
        return Mapping({}, {}, mapping.line)
    if not isinstance(node, Mapping):
        raise ManifestError(f"{key} is {describe(node)} where a mapping is wanted", node.line)
    return node


def _list(mapping: Mapping, key: str) -> list[Node]:
    node = _field(mapping, key)
    if node is None:
        return []
    if not isinstance(node, Sequence):
        raise ManifestError(f"{key} is {describe(node)} where a list is wanted", node.line)
    return node.items


def strict_sandbox(path: Path) -> tuple[bool, tuple[Problem, ...]]:
    """Whether a Dapr Configuration file says `spec.wasm.strictSandbox: true`, and what was wrong with the file.

    Source: dapr pkg/config/configuration.go, WasmSpec; pkg/runtime/meta/meta.go, AddWasmStrictSandbox.
    """
    findings = Findings()
    found = False
    for resource in read_file(path, "Configuration", findings):
        try:
            found = _flag(_mapping(_mapping(resource.root, "spec"), "wasm"), "strictSandbox") or found
        except ManifestError as error:
            message = f"spec.wasm.strictSandbox cannot be read: {error.message}"
            findings.add(Severity.ERROR, message, "write true or false", path=path, line=error.line)
    return found, tuple(findings.problems)

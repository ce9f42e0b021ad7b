"""Reads the YAML documents of one kind, from a folder or from one file.

The behaviour is copied from Dapr, pkg/internal/loader/disk/manifest.go. Dapr hangs on a document over 64 KiB. Here it
is read, and a note says so.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from sandboxd.components import fields
from sandboxd.components.fields import ManifestError
from sandboxd.files.problems import Findings, Severity
from sandboxd.files.textfile import FileTextError, read_text
from sandboxd.files.yamltext import Document, Mapping, Sequence, YamlError, describe, parse

MAX_FILE_BYTES: Final = 1024 * 1024
"""The longest component file."""
DAPR_DOCUMENT_BYTES: Final = 64 * 1024
"""Dapr's reader (Go's bufio.Scanner) never finishes on a document longer than this."""
API_VERSION: Final = "dapr.io/v1alpha1"
_DAPR_KINDS: Final = frozenset(
    ("Component", "Configuration", "Subscription", "Resiliency", "HTTPEndpoint", "MCPServer")
)
"""The kinds of dapr.io/v1alpha1, which may lie in the same folder."""

REMEMBERED_LENGTH: Final = 16 * 1024
"""The longest document whose tree is cached. Characters."""
remembered: Final = lru_cache(maxsize=2048)(parse)
"""Caches parsed documents. A reload reads all files, most of them unchanged, and parsing takes most of its time on the
event loop."""

_NOT_TEXT = re.compile("[\ud800-\udfff]")
_SEPARATOR = re.compile(r"\n---([^\n]*)(?:\n|\Z)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A document of the wanted kind."""

    path: Path
    line: int
    """The line of its first key."""
    root: Mapping
    kind: str


def read_folder(folder: Path, kind: str, findings: Findings, *, also: tuple[str, ...] = ()) -> Iterator[Resource]:
    """Yield the documents of `kind` in a folder's YAML files, ordered by the bytes of the files' names.

    Subfolders, other kinds and other API versions are skipped. Whatever cannot be read becomes a problem.

    Parameters:
        folder: the folder.
        kind: the kind of document.
        findings: collects the problems.
        also: further kinds, whose documents are yielded, too.
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
        # A mounted ConfigMap has its content in ..data and ..2024_01_01. Its visible files are links to there.
        if is_folder or name.startswith(".."):
            continue
        if os.path.splitext(name)[1].lower() not in (".yaml", ".yml"):
            message = f"A non-YAML {kind} file {name} was detected, it will not be loaded"
            findings.add(Severity.NOTE, message, path=folder / name)
            continue
        yield from read_file(folder / name, kind, findings, also=also)


def read_file(path: Path, kind: str, findings: Findings, *, also: tuple[str, ...] = ()) -> Iterator[Resource]:
    """Yield the documents of `kind` in one file.

    A document that cannot be read becomes a warning, and the others are read. A file that cannot be opened becomes a
    warning, too, as in Dapr. A file that is too long becomes an error.

    Parameters:
        path: the file.
        kind, findings, also: see `read_folder`.
    """
    try:
        text = read_text(path, max_bytes=MAX_FILE_BYTES, lenient=True)
    except FileTextError as error:
        unusual = path.is_file()
        findings.add(
            Severity.ERROR if unusual and os.access(path, os.R_OK) else Severity.WARNING,
            f"load {kind} error when opening file {path.name}: {error}",
            f"component files are UTF-8 text of at most {MAX_FILE_BYTES} bytes" if unusual else "",
            path=path,
            lost=True,
        )
        return
    for first_line, document in _split(text, path, findings):
        try:
            _check_text(document, first_line)
            short = len(document) <= REMEMBERED_LENGTH
            parsed = remembered(document, first_line=first_line) if short else parse(document, first_line=first_line)
            resource = _of_kind(parsed, (kind, *also), path)
        except (YamlError, ManifestError) as error:
            skipped(kind, error, path, findings)
            continue
        if resource is None:
            _report_other_kind(parsed, kind, path, findings)
            continue
        for key, line in parsed.duplicates:
            findings.add(
                Severity.WARNING, f"{key} is set twice in one mapping; the last one counts", path=path, line=line
            )
        if len(document.encode("utf-8", "surrogatepass")) > DAPR_DOCUMENT_BYTES:
            findings.add(
                Severity.NOTE,
                f"the document is over {DAPR_DOCUMENT_BYTES} bytes; sandboxd reads it, but daprd hangs on it",
                path=path,
                line=resource.line,
            )
        yield resource


def _check_text(document: str, first_line: int) -> None:
    """Raise YamlError if a document had bytes that are not UTF-8."""
    wrong = _NOT_TEXT.search(document)
    if wrong is not None:
        line = document.count("\n", 0, wrong.start()) + first_line
        raise YamlError(f"not UTF-8: byte {ord(wrong[0]) & 0xFF:#04x}", line)


def _report_other_kind(document: Document, kind: str, path: Path, findings: Findings) -> None:
    """Report a document of another kind. Dapr says nothing, and a typo there would silently cost the binding."""
    root = document.root
    if kind != "Component" or not isinstance(root, Mapping):
        return
    version, found = fields.plain(root, "apiVersion"), fields.plain(root, "kind")
    if version == API_VERSION and found in _DAPR_KINDS:
        return
    spec = fields.field(root, "spec")
    shaped = (
        isinstance(spec, Mapping)
        and fields.plain(spec, "type")
        and isinstance(fields.field(spec, "metadata"), Sequence)
    )
    meant = shaped or difflib.get_close_matches(found, [kind], cutoff=0.7)
    key, value, wanted = ("kind", found, kind) if found != kind else ("apiVersion", version, API_VERSION)
    findings.add(
        Severity.WARNING if meant or found == kind else Severity.NOTE,
        f"the document is not read: its {key} is {json.dumps(value)}, not {wanted}",
        f"a component has apiVersion: {API_VERSION} and kind: {kind}",
        path=path,
        line=root.key_lines.get(key, root.line),
    )


def skipped(kind: str, error: YamlError | ManifestError, path: Path, findings: Findings) -> None:
    """Record, in Dapr's words, that a document of `kind` is left out because of `error`."""
    findings.add(
        Severity.WARNING,
        f"load {kind} error when parsing manifests yaml resource in {path.name}: {error.message}",
        "the document is left out; indent with blanks, not tabs"
        if " tab" in error.message or "'\\t'" in error.message
        else "the document is left out; repair it",
        path=path,
        line=error.line,
        lost=True,
    )


def _split(text: str, path: Path, findings: Findings) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of the documents between `---` lines."""
    at, line = 0, 1
    for separator in _SEPARATOR.finditer(text):
        yield line, text[at : separator.start()]
        line += text.count("\n", at, separator.end())
        at = separator.end()
        rest = separator[1].strip()
        if rest and not rest.startswith("#"):
            findings.add(
                Severity.WARNING,
                "text after --- on the same line is not read",
                "move it to the next line",
                path=path,
                line=line - 1,
            )
    yield line, text[at:]


def _of_kind(document: Document, kinds: tuple[str, ...], path: Path) -> Resource | None:
    root = document.root
    if root is None:
        return None
    if not isinstance(root, Mapping):
        raise ManifestError(f"the document is {describe(root)}, not a mapping", root.line)
    kind = fields.text(root, "kind")
    # daprd checks apiVersion only for the first kind (pkg/resiliency, loadLocalResiliencyPath).
    if kind not in kinds or (kind == kinds[0] and fields.text(root, "apiVersion") != API_VERSION):
        return None
    return Resource(path=path, line=root.line, root=root, kind=kind)

"""Parse paths as Dapr's router does (dapr pkg/api/http/middlewares.go, server.go)."""

import posixpath
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from sandboxd.gojson.text import replace_surrogates

BINDINGS: Final = b"/v1.0/bindings/"
HTTP: Final = b"/v1.0/http/"
_METADATA: Final = "metadata."

_malformed_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search


def clean(raw_path: bytes) -> bytes | None:
    """Return a path as Go's path.Clean does: without double slashes, `.`, `..` and a trailing slash.

    Returns:
        None if the path has a malformed percent escape, which Go's server refuses.
    """
    if _malformed_escape(raw_path):
        return None
    # normpath keeps exactly two leading slashes, because they have a meaning in POSIX. Go removes one.
    return posixpath.normpath(b"/" + raw_path.lstrip(b"/"))


def unescape_name(segment: bytes) -> str:
    """Return a name as url.QueryUnescape does: `+` is a space. Bytes that are not UTF-8 become U+FFFD."""
    name = unquote_to_bytes(segment.replace(b"+", b" ")).decode("utf-8", "surrogateescape")
    return name if name.isascii() else replace_surrogates(name)


def origin_form(target: bytes) -> bytes:
    """Return the path of an absolute-form target, `http://host/path`, which servers must accept (RFC 9112, 3.2.2)."""
    _, colon, rest = target.partition(b"://")
    return b"/" + rest.partition(b"/")[2] if colon else target


def first_value(query: bytes, key: bytes) -> str | None:
    """Return the first value of a key in a query, as Go's url.Query().Get does; None if the key is not there.

    Pairs that cannot be unescaped, or that hold a semicolon, are left out.
    """
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if b";" not in pair and not _malformed_escape(pair) and unescape_name(name) == key.decode():
            return unescape_name(value)
    return None


def metadata_of(query: bytes) -> dict[str, str] | None:
    """Return the metadata that a query has, as `metadata.args=a,b`; None if it has none. The last of a key counts.

    Pairs that cannot be unescaped, or that hold a semicolon, are left out.
    """
    found: dict[str, str] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if b";" not in pair and not _malformed_escape(pair):
            key = unescape_name(name)
            if key.startswith(_METADATA):
                found[key[len(_METADATA) :]] = unescape_name(value)
    return found or None


def binding_name(path: bytes) -> str | None:
    """Return the name in `/v1.0/bindings/{name}`; None for any other path.

    Parameters:
        path: from `clean`.
    """
    if not path.startswith(BINDINGS):
        return None
    segment = path[len(BINDINGS) :]
    return None if b"/" in segment or not segment else unescape_name(segment)

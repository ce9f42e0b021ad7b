"""Paths, as Dapr's router sees them (dapr pkg/api/http/middlewares.go, server.go)."""

import posixpath
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from sandboxd.front.gojson_text import replace_surrogates

BINDINGS: Final = b"/v1.0/bindings/"
HTTP: Final = b"/v1.0/http/"

_malformed_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search


def clean(raw_path: bytes) -> bytes | None:
    """Go's path.Clean: double slashes, `.`, `..` and a trailing slash are taken out.

    Returns:
        None if the path holds a malformed percent escape, which Go's server refuses.
    """
    if _malformed_escape(raw_path):
        return None
    # normpath keeps exactly two leading slashes, which POSIX gives a meaning; Go does not.
    return posixpath.normpath(b"/" + raw_path.lstrip(b"/"))


def unescape_name(segment: bytes) -> str:
    """url.QueryUnescape: `+` is a space. Bytes that are not UTF-8 become U+FFFD, as they would in any answer."""
    name = unquote_to_bytes(segment.replace(b"+", b" ")).decode("utf-8", "surrogateescape")
    return name if name.isascii() else replace_surrogates(name)


def binding_name(path: bytes) -> str | None:
    """The name in `/v1.0/bindings/{name}`; None for any other path.

    Parameters:
        path: as `clean` gives it.
    """
    if not path.startswith(BINDINGS):
        return None
    segment = path[len(BINDINGS) :]
    return None if b"/" in segment or not segment else unescape_name(segment)

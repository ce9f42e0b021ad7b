"""Checks the URL of a guest as Dapr does (components-contrib common/wasm/wasm.go), and derives the guest's name."""

import posixpath
from typing import Final
from urllib.parse import unquote, urlsplit

_PREFIX: Final = "wasm: failed to parse metadata: "
_SCHEMES: Final = ("file", "http", "https")


class UrlError(ValueError):
    """A URL does not name a guest. `remedy` says what to write."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(_PREFIX + message)
        self.remedy = remedy


def check_url(url: str, shown: str, *, confidential: bool = False) -> str:
    """Return a URL's scheme: file, http or https. Checks, messages and their order are Dapr's (GetInitMetadata).

    Parameters:
        url: the URL as it is in the component.
        shown: the URL as it may be in a message.
        confidential: whether a message may not even show its scheme.

    Raises:
        UrlError: it is missing or invalid, or its scheme is not supported.
    """
    if not url:
        raise UrlError("missing url", "set url to the guest's file:// path or its http:// or https:// URL")
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise UrlError(f"invalid URL: {shown}", "begin it with file://, http:// or https://")
    if scheme == "oci":
        raise UrlError("TODO oci", "OCI images are not supported; serve the guest over http or a file")
    if scheme not in _SCHEMES:
        text = f"unsupported URL scheme: {shown if confidential else scheme}"
        raise UrlError(text, "file, http and https are supported")
    if not _has_address(url, scheme, rest):
        raise UrlError(f"invalid URL: {shown}", f"write {scheme}:// and the guest's address; a blank is written %20")
    return scheme


def _has_address(url: str, scheme: str, rest: str) -> bool:
    least = 0x20 if scheme == "file" else 0x21  # a file's name may hold spaces
    if not rest.startswith("//") or len(rest) == 2 or any(ord(c) < least or ord(c) == 0x7F for c in rest):
        return False
    if scheme == "file":
        return True
    try:
        parts = urlsplit(url)
        port = parts.port  # raises ValueError if it is not a port
    except ValueError:
        return False
    return bool(parts.hostname) and port != 0


def guest_name(url: str) -> str:
    """Return argv[0]: the base name of the URL's path without `.wasm`, as in Dapr (file URLs undecoded)."""
    path = url[7:] if url.startswith("file://") else unquote(urlsplit(url).path)
    base = posixpath.basename(path.rstrip("/")) or ("/" if path else ".")
    return base.removesuffix(".wasm")

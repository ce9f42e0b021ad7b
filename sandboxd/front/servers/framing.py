"""Checks request heads, alike for every HTTP server: what is refused whatever it asks for.

HTTP parsers differ in what they let through. A proxy in front of the server may read the same bytes in another way, and
then the two disagree about where a request ends or whom it is for. So heads that are ambiguous are refused here, and
the connection is closed.
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, NamedTuple

from sandboxd.front.answering.outcomes import DIRECT_INVOKE, NO_APP_ID
from sandboxd.gojson import error_body

HOST: Final = b"host"
CONTENT_LENGTH: Final = b"content-length"
TRANSFER_ENCODING: Final = b"transfer-encoding"
EXAMINED: Final = frozenset((HOST, CONTENT_LENGTH, TRANSFER_ENCODING))
"""Names of the fields that `check_fields` looks at."""

_LENGTH_DIGITS: Final = 18
"""Parsers hold a length in 63 or 64 bits, or refuse it, or cut it off. So far all agree."""

# As in Go (net/http, validHostHeader): lenient towards names, but nothing that could end a line or a component.
_host = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*").fullmatch
_method = re.compile(rb"[A-Z0-9!#$%&'*+.^_`|~-]+").fullmatch
_line = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}) [!-\"$-~]+ HTTP/1\.[01]\r\n").match
_COMMON: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"))
"""The methods of RFC 9110 and RFC 5789, which every parser knows."""
_beyond_ascii = re.compile(rb"[\x80-\xff]").sub
_target = re.compile(rb"[!-\"$-~]+").fullmatch
_absolute = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL).fullmatch


class BadHead(Exception):  # noqa: N818 - a refusal, not an error of the program
    """The head is refused.

    Parameters:
        status: of the answer.
        reason: one clause, for the answer and for nobody's log.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason

    def content(self) -> tuple[bytes, bytes]:
        """Return the type and the body of the answer."""
        text = f"{self.status} {HTTPStatus(self.status).phrase}: {self.reason}\n"
        return b"text/plain; charset=utf-8", text.encode()


class NoSuchMethod(BadHead):
    """The method is none that is known here. The answer is Dapr's to a request for nothing that it has.

    Names of methods are case-sensitive (RFC 9110, 9.1), and all known ones are in upper case.
    """

    def __init__(self) -> None:
        super().__init__(404, "there is no such method; names of methods are case-sensitive")

    def content(self) -> tuple[bytes, bytes]:
        """See `BadHead`."""
        return b"application/json", error_body(DIRECT_INVOKE, NO_APP_ID)


class Target(NamedTuple):
    """A request target in parts."""

    path: bytes
    """Percent-encoded as it came; begins with a slash, or is `*`."""
    query: bytes
    authority: bytes | None
    """Of an absolute-form target: it takes the place of the Host field."""


def check_fields(version: str, fields: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse heads whose framing or Host is ambiguous.

    Parameters:
        version: `1.0` or `1.1`; no other is spoken.
        fields: names in lower case; others than those of `EXAMINED` may be left out.

    Raises:
        BadHead: RFC 9112, 2.3 (version), 3.2 (Host), 6.1 and 6.3 (Transfer-Encoding, Content-Length).
    """
    if version not in ("1.1", "1.0"):
        raise BadHead(505, "this version of HTTP is not spoken here")
    hosts = 0
    length = coding = None
    for name, value in fields:
        if name == HOST:
            hosts += 1
            if not _host(value):
                raise BadHead(400, "the Host field is malformed")
        elif name == CONTENT_LENGTH:
            length = value
            if len(value) > _LENGTH_DIGITS:
                raise BadHead(400, "the Content-Length is longer than any body")
        elif name == TRANSFER_ENCODING:
            coding = value if coding is None else coding + b"," + value
    if hosts > 1 or (not hosts and version == "1.1"):
        raise BadHead(400, "there must be one Host field")
    if coding is None:
        return
    if length is not None:
        raise BadHead(400, "Content-Length and Transfer-Encoding exclude each other")
    if version == "1.0":
        raise BadHead(400, "HTTP/1.0 has no Transfer-Encoding")
    if coding.lower() != b"chunked":
        raise BadHead(501, "the only transfer coding understood is chunked")


def check_method(method: bytes) -> None:
    """Refuse methods in lower case, and what is none at all.

    Raises:
        BadHead: it is no token (RFC 9110, 5.6.2), or NoSuchMethod.
    """
    if not _method(method):
        raise NoSuchMethod if _method(method.upper()) else BadHead(400, "the method is not a token")


def has_unknown_method(received: bytes) -> bool:
    """Return whether a request that a parser refused begins with a line in which only the method may be at fault.

    Parameters:
        received: what begins with the request's first line.
    """
    line = _line(received)
    return line is not None and line[1] not in _COMMON


def split(method: bytes, target: bytes) -> Target:
    """Take a request target apart.

    Raises:
        BadHead: it has none of the forms of RFC 9112, 3.2 that are served here.
    """
    if not _target(target):
        raise BadHead(400, "the request target has characters that have to be percent-encoded")
    authority: bytes | None = None
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return Target(target, b"", None)
        absolute = _absolute(target)
        if absolute is None:
            raise BadHead(400, "the request target is neither a path nor an http URL")
        authority, target = absolute.groups()
        if not authority or not _host(authority):
            raise BadHead(400, "the authority of the request target is malformed")
        if not target.startswith(b"/"):
            target = b"/" + target
    path, _, query = target.partition(b"?")
    return Target(path, query, authority)


def with_encoded_target(received: bytes) -> bytes | None:
    """Return a request whose target had UTF-8 outside ASCII with that percent-encoded; None if it is none.

    `curl localhost/v1.0/bindings/é` sends such a target. Go's server takes it. Proxies refuse it or pass it on: none
    reads another request from it.

    Parameters:
        received: what begins with the request's first line.
    """
    line, end, rest = received.partition(b"\r\n")
    parts = line.split(b" ")
    if not end or line.isascii() or len(parts) != 3:
        return None
    method, target, version = parts
    if not (method.isascii() and version.isascii() and _is_utf8(target)):
        return None
    encoded = _beyond_ascii(lambda match: b"%%%02X" % match[0][0], target)
    return b" ".join((method, encoded, version)) + end + rest


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def replace_host(fields: list[tuple[bytes, bytes]], authority: bytes) -> None:
    """Have the authority of an absolute-form target take the place of the Host field (RFC 9112, 3.2.2)."""
    fields[:] = [(HOST, authority), *(field for field in fields if field[0] != HOST)]

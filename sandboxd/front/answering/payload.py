"""Turns a request's `data` into a guest's stdin, and its stdout into a reply, by the kinds that were asked for.

One meaning for every protocol. It begins with the JSON text of `data`, which is what Dapr gives a guest, and ends with
the bytes of the reply. Nothing here reads or writes.
"""

import base64
import binascii
import codecs
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from sandboxd import gojson
from sandboxd.wire.streams import StdinKind, StdoutKind

STDIN: Final = "stdin"
STDOUT: Final = "stdout"
"""The members of a request's metadata, and the keys of a component."""

_NO_DATA: Final = b"null"
_PIECE_BYTES: Final = 192 * 1024
"""A multiple of 3, so that the pieces of a base64 text need no padding but the last."""
_NAMES: Final = {ord("{"): "an object", ord("["): "an array", ord("t"): "true", ord("f"): "false", ord("n"): "null"}
_LINE_ENDS: Final = str.maketrans("", "", "\r\n")

_Kind = TypeVar("_Kind", bound=StrEnum)

_text_of = msgspec.json.Decoder(str).decode
_json_of = msgspec.json.Encoder().encode


class KindError(Exception):
    """A request asks for a kind that does not exist. The text is for the caller."""


class DataError(Exception):
    """`data` is not what its kind of stdin asks for. The text is for the caller."""


def stdin_kind(metadata: Mapping[str, str] | None, default: StdinKind) -> StdinKind:
    """Return the kind of stdin that a request asks for.

    Parameters:
        metadata: the request's.
        default: the binding's.

    Raises:
        KindError: there is no such kind.
    """
    return _kind(metadata, STDIN, default)


def stdout_kind(metadata: Mapping[str, str] | None, default: StdoutKind) -> StdoutKind:
    """Return the kind of reply that a request asks for. See `stdin_kind`."""
    return _kind(metadata, STDOUT, default)


def _kind(metadata: Mapping[str, str] | None, key: str, default: _Kind) -> _Kind:
    wanted = metadata.get(key) if metadata else None
    if wanted is None:
        return default
    kinds = type(default)
    try:
        return kinds(wanted)
    except ValueError:
        raise KindError(f"metadata {key} must be one of {', '.join(kinds)}") from None


def converted(request: gojson.Request, default: StdinKind) -> gojson.Request:
    """Return a request whose `data` is the guest's stdin.

    Parameters:
        request: as it was decoded.
        default: the binding's kind of stdin.

    Raises:
        KindError: the request's metadata names no kind of stdin.
        DataError: `data` does not fit the kind.
    """
    kind = stdin_kind(request.metadata, default)
    return request if kind is StdinKind.JSON else request._replace(data=stdin_of(kind, request.data))


def stdin_of(kind: StdinKind, data: bytes) -> bytes:
    """Return what the guest reads from stdin.

    Parameters:
        kind: `json` gives `data` as it is, `text` the characters of a JSON string as UTF-8, `base64` the bytes that a
            JSON string of that encoding stands for (RFC 4648, section 4; line ends in it do not count).
        data: JSON text; `null` means that the request has no data, and gives an empty stdin for `text` and `base64`.

    Raises:
        DataError: the kind asks for a JSON string, and `data` is something else; or it is not base64.
    """
    if kind is StdinKind.JSON:
        return data
    if not data or data == _NO_DATA:
        return b""
    try:
        text = _text_of(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise DataError(f"data must be a JSON string, because stdin is {kind}; it is {_described(data)}") from None
    if kind is StdinKind.TEXT:
        return text.encode()
    try:
        return base64.b64decode(text.translate(_LINE_ENDS), validate=True)
    except (binascii.Error, ValueError):
        # ValueError: a character outside ASCII.
        raise DataError("data must be a string in base64, because stdin is base64; it is not") from None


def _described(data: bytes) -> str:
    first = data.lstrip(b" \t\r\n")[:1]
    if first in (b"-", *(b"%d" % digit for digit in range(10))):
        return "a number"
    return _NAMES.get(ord(first or b"?"), "no valid JSON")


def reply_of(kind: StdoutKind, stdout: bytes) -> bytes:
    """Return the reply to a completed invocation. See `reply_pieces`."""
    return stdout if kind is StdoutKind.RAW else b"".join(reply_pieces(kind, stdout))


def reply_pieces(kind: StdoutKind, stdout: bytes) -> Iterator[bytes]:
    """Yield the reply to a completed invocation, in pieces that each take less than a millisecond to make.

    Parameters:
        kind: `raw` is what the guest wrote. `base64` is a JSON string that holds it in base64. `json` is a JSON string
            of its text; what is not UTF-8 becomes U+FFFD, as in Go's json.Marshal.
        stdout: what the guest wrote.
    """
    if kind is StdoutKind.RAW:
        yield stdout
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    yield b'"'
    for at in range(0, len(stdout), _PIECE_BYTES):
        piece = stdout[at : at + _PIECE_BYTES]
        if kind is StdoutKind.BASE64:
            yield base64.b64encode(piece)
        else:
            yield _json_of(decoder.decode(piece, at + _PIECE_BYTES >= len(stdout)))[1:-1]
    yield b'"'

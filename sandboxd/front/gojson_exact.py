"""The binding request decoded step by step as Go does it, for bodies the fast path leaves alone.

Copied behaviour: json.Decoder.Decode into Dapr's OutputBindingRequest (dapr pkg/api/http/http.go,
onOutputBindingMessage), Go 1.26. The whole value is checked for syntax before anything is stored, so a syntax error
anywhere wins over a type error; of several type errors the first is reported.
"""

from collections.abc import Iterator
from typing import Final

from sandboxd.front.gojson_scan import IncompleteError, Scanner, encode

_STRUCT: Final = "OutputBindingRequest"
_FIELDS: Final = frozenset(("operation", "metadata", "data"))
_KINDS: Final = {0x7B: "object", 0x5B: "array", 0x22: "string", 0x74: "bool", 0x66: "bool"}
_NULL: Final = 0x6E
_WHITE_SPACE: Final = b" \t\r\n"


class TypeMismatchError(Exception):
    """Well-formed JSON of the wrong types; the text is Go's UnmarshalTypeError."""


class StreamError(Exception):
    """The body ended, or passed its limit, before its first value did; the text is Go's."""


class StreamTooLargeError(StreamError):
    """It passed its limit."""


def _kind(byte: int) -> str:
    return _KINDS.get(byte, "number")


class _Envelope:
    """The request while it is being read."""

    __slots__ = ("at", "data", "fault", "metadata", "operation", "scanner")

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.at = 0
        self.operation = ""
        self.metadata: dict[str, str] | None = None
        self.data = b"null"
        self.fault: str | None = None

    def _wrong(self, what: str, field: str, want: str) -> None:
        if self.fault is None:
            self.fault = f"json: cannot unmarshal {what} into Go struct field {_STRUCT}.{field} of type {want}"

    def read(self, *, cut: bool) -> None:
        """Read the first value of the body.

        Parameters:
            cut: more bytes would have followed.

        Raises:
            JsonSyntaxError, IncompleteError, TypeMismatchError: it is no request.
        """
        scanner = self.scanner
        at, byte = scanner.peek(0)
        if byte != 0x7B:
            _, end = scanner.value(at, 0)
            if cut and end == scanner.end and byte != 0x5B:
                raise IncompleteError  # Go needs one byte more to know that a scalar has ended
            if byte != _NULL:
                raise TypeMismatchError(f"json: cannot unmarshal {_kind(byte)} into Go value of type http.{_STRUCT}")
            return
        for name, start in self._members(at):
            # Go folds by Unicode, but only k and s have partners outside ASCII and no field's name has either.
            field = name.lower() if name.isascii() else name
            self.at = self._field(field, start) if field in _FIELDS else scanner.value(start, 1)[1]
        if self.fault is not None:
            raise TypeMismatchError(self.fault)

    def _members(self, at: int) -> Iterator[tuple[str, int]]:
        """Each key of the object at `at`, and where its value begins.

        Whoever iterates reads the value and leaves `self.at` behind it; at the end it is behind the object.
        """
        scanner = self.scanner
        self.at, byte = scanner.peek(at + 1)
        if byte == 0x7D:
            self.at += 1
            return
        more = True
        while more:
            yield scanner.key(self.at)
            self.at, more = scanner.after_member(self.at)

    def _field(self, field: str, at: int) -> int:
        at, byte = self.scanner.peek(at)
        if field == "data":
            return self._data(at)
        if field == "metadata":
            return self._metadata(at, byte)
        if byte == 0x22:
            self.operation, at = self.scanner.string(at)
            return at
        if byte != _NULL:
            self._wrong(_kind(byte), "operation", "string")
        return self.scanner.value(at, 1)[1]

    def _data(self, at: int) -> int:
        scanner = self.scanner
        scanner.take_overflow()
        node, at = scanner.value(at, 1)
        overflow = scanner.take_overflow()
        if overflow is not None:
            self._wrong(f"number {overflow}", "data", "float64")
        self.data = encode(node)
        return at

    def _metadata(self, at: int, byte: int) -> int:
        scanner = self.scanner
        if byte != 0x7B:
            if byte == _NULL:
                self.metadata = None
            else:
                self._wrong(_kind(byte), "metadata", "map[string]string")
            return scanner.value(at, 1)[1]
        if self.metadata is None:
            self.metadata = {}
        for name, start in self._members(at):
            value, first = scanner.peek(start)
            if first == 0x22:
                self.metadata[name], self.at = scanner.string(value)
                continue
            self.metadata[name] = ""
            if first != _NULL:
                self._wrong(_kind(first), "metadata", "string")
            self.at = scanner.value(value, 2)[1]
        return self.at


def decode(body: bytes, *, cut: bool) -> tuple[str, dict[str, str] | None, bytes]:
    """Operation, metadata and re-encoded data of a request.

    Parameters:
        body: the request body, or as much of it as the limit allows.
        cut: the body went on beyond the limit.

    Raises:
        JsonSyntaxError, TypeMismatchError, StreamError: it is no request; the text is what Go's decoder says.
    """
    envelope = _Envelope(Scanner(body))
    try:
        envelope.read(cut=cut)
    except IncompleteError:
        if cut:
            raise StreamTooLargeError("stream too large") from None
        raise StreamError("unexpected EOF" if body.strip(_WHITE_SPACE) else "EOF") from None
    return envelope.operation, envelope.metadata, envelope.data

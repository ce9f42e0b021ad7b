"""The exact path: decodes a binding request step by step as Go does, for bodies that the fast path cannot decode.

Copied behaviour: json.Decoder.Decode into Dapr's OutputBindingRequest (dapr pkg/api/http/http.go,
onOutputBindingMessage), Go 1.26. Go checks the syntax of the whole value before it stores anything, so any syntax error
takes precedence over a type error. Of several type errors the first is reported.
"""

from collections.abc import Iterator
from typing import Final

from sandboxd.gojson.scan import IncompleteError, Scanner, encode

_STRUCT: Final = "OutputBindingRequest"
_FIELDS: Final = frozenset(("operation", "metadata", "data"))
_KINDS: Final = {0x7B: "object", 0x5B: "array", 0x22: "string", 0x74: "bool", 0x66: "bool"}
_NULL: Final = 0x6E
_WHITE_SPACE: Final = b" \t\r\n"


class TypeMismatchError(Exception):
    """The JSON is well-formed but has wrong types. The message is Go's UnmarshalTypeError."""


class StreamError(Exception):
    """The body ended, or exceeded its limit, before its first value ended. The message is Go's."""


class StreamTooLargeError(StreamError):
    """The body exceeded its limit before its first value ended."""


def _kind(byte: int) -> str:
    return _KINDS.get(byte, "number")


class _Envelope:
    """A request that is being read."""

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
            cut: whether the body was longer than the limit.

        Raises:
            JsonSyntaxError, IncompleteError, TypeMismatchError: it is not a request.
        """
        scanner = self.scanner
        at, byte = scanner.peek(0)
        if byte != 0x7B:
            _, end = scanner.value(at, 0)
            if cut and end == scanner.end and byte != 0x5B:
                raise IncompleteError  # Go needs one more byte to know that a scalar has ended
            if byte != _NULL:
                raise TypeMismatchError(f"json: cannot unmarshal {_kind(byte)} into Go value of type http.{_STRUCT}")
            return
        for name, start in self._members(at):
            # Go folds case by Unicode, but of ASCII only k and s have equivalents outside it, and no field has either.
            field = name.lower() if name.isascii() else name
            self.at = self._field(field, start) if field in _FIELDS else scanner.value(start, 1)[1]
        if self.fault is not None:
            raise TypeMismatchError(self.fault)

    def _members(self, at: int) -> Iterator[tuple[str, int]]:
        """Yield each key of the object at `at`, and the offset of its value.

        The caller reads the value and sets `self.at` to the offset after it. At the end `self.at` is after the object.
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
    """Return the operation, the metadata and the re-encoded data of a request.

    Parameters:
        body: the request body, cut at the limit.
        cut: whether the body was longer than the limit.

    Raises:
        JsonSyntaxError, TypeMismatchError, StreamError: it is not a request. The message is that of Go's decoder.
    """
    envelope = _Envelope(Scanner(body))
    try:
        envelope.read(cut=cut)
    except IncompleteError:
        if cut:
            raise StreamTooLargeError("stream too large") from None
        raise StreamError("unexpected EOF" if body.strip(_WHITE_SPACE) else "EOF") from None
    return envelope.operation, envelope.metadata, envelope.data

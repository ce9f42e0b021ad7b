"""The scanner of the exact path: reads any bytes as json.Decoder of Go 1.26 does, with the same error messages.

It does not recurse, since Go allows 10,000 levels, and its work is linear in the length of the body.
"""

import re
from typing import Any, Final, NoReturn

from sandboxd.gojson.text import number, quote, quote_char, unquote

MAX_DEPTH: Final = 10_000
"""maxNestingDepth, scanner.go."""

_space = re.compile(rb"[ \t\r\n]*+").match
# The content of a string: everything after its opening quote up to the first byte that cannot be part of it.
_string_content = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*+').match
_number = re.compile(rb"-?(?:0|[1-9][0-9]*+)(\.[0-9]++)?([eE][+-]?[0-9]++)?").match
_exponent_sign = re.compile(rb"[eE][+-]?").match

_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
_BRACE, _END_BRACE, _BRACKET, _END_BRACKET = b"{}[]"
_LITERALS: Final = {0x74: b"true", 0x66: b"false", 0x6E: b"null"}
_CONTINUATION: Final = frozenset(b".eE")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")

# A value that has been read: the encoded text of a scalar, or a dict or list of nodes.
Node = Any


class JsonSyntaxError(Exception):
    """The bytes are not JSON. The message is Go's SyntaxError."""


class IncompleteError(Exception):
    """The bytes end within the first value."""


def _fault(byte: int, context: str) -> JsonSyntaxError:
    return JsonSyntaxError(f"invalid character {quote_char(byte)} {context}")


class Scanner:
    """Reads values from one body. Every position is an offset into it.

    Parameters:
        body: the bytes.
    """

    __slots__ = ("_overflow", "body", "end")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.end = len(body)
        self._overflow: str | None = None

    def __repr__(self) -> str:
        return f"<Scanner of {self.end} bytes>"

    def take_overflow(self) -> str | None:
        """Return the first number literal since the last call that float64 cannot hold; None if there is none."""
        overflow, self._overflow = self._overflow, None
        return overflow

    def peek(self, at: int) -> tuple[int, int]:
        """Skip white space. Return the position and the value of the next byte.

        Raises:
            IncompleteError: there is no next byte.
        """
        if at < self.end and self.body[at] > 0x20:
            return at, self.body[at]
        match = _space(self.body, at)
        at = match.end() if match else at
        if at >= self.end:
            raise IncompleteError
        return at, self.body[at]

    def string(self, at: int) -> tuple[str, int]:
        """Return the text of the string whose opening quote is at `at`, and the position after the string.

        Raises:
            JsonSyntaxError, IncompleteError: it is not a whole string.
        """
        match = _string_content(self.body, at + 1)
        stop = match.end() if match else at + 1
        if stop < self.end and self.body[stop] == _QUOTE:
            return unquote(self.body[at + 1 : stop]), stop + 1
        raise self._string_fault(stop)

    def _string_fault(self, at: int) -> JsonSyntaxError | IncompleteError:
        """Return the error for the byte at `at`, which cannot be part of a string."""
        rest = self.body[at : at + 6]
        if len(rest) > 0 and rest[0] != _BACKSLASH:
            return _fault(rest[0], "in string literal")
        if len(rest) > 1 and rest[1] != 0x75:
            return _fault(rest[1], "in string escape code")
        for byte in rest[2:]:
            if byte not in _HEX:
                return _fault(byte, "in \\u hexadecimal character escape")
        return IncompleteError()

    def key(self, at: int) -> tuple[str, int]:
        """Return the object key that begins at or after `at`, and the position after its colon.

        Raises:
            JsonSyntaxError, IncompleteError: there is no key and colon.
        """
        at, byte = self.peek(at)
        if byte != _QUOTE:
            raise _fault(byte, "looking for beginning of object key string")
        text, at = self.string(at)
        at, byte = self.peek(at)
        if byte != _COLON:
            raise _fault(byte, "after object key")
        return text, at + 1

    def after_member(self, at: int) -> tuple[int, bool]:
        """Skip the comma or closing brace after an object's member.

        Returns:
            the position after it, and whether another member must follow.

        Raises:
            JsonSyntaxError, IncompleteError: neither a comma nor the closing brace follows.
        """
        at, byte = self.peek(at)
        if byte != _COMMA and byte != _END_BRACE:
            raise _fault(byte, "after object key:value pair")
        return at + 1, byte == _COMMA

    def number(self, at: int) -> tuple[str, int]:
        """Return the number literal at `at` and the position after it.

        Raises:
            JsonSyntaxError, IncompleteError: it is not a number, or the bytes end where a digit must follow.
        """
        match = _number(self.body, at)
        if match is None:  # it is a minus sign alone: `scalar` calls this only at a minus sign or digit
            at += 1
            self._digit_missing(at, "in numeric literal")
        stop = match.end()
        if stop < self.end and self.body[stop] in _CONTINUATION:
            byte = self.body[stop]
            fraction, exponent = match.groups()
            if exponent is not None:
                return match.group().decode("ascii"), stop
            if byte == 0x2E and fraction is None:
                self._digit_missing(stop + 1, "after decimal point in numeric literal")
            sign = _exponent_sign(self.body, stop)
            if sign:
                self._digit_missing(sign.end(), "in exponent of numeric literal")
        return match.group().decode("ascii"), stop

    def _digit_missing(self, at: int, context: str) -> NoReturn:
        if at >= self.end:
            raise IncompleteError
        raise _fault(self.body[at], context)

    def literal(self, at: int) -> tuple[str, int]:
        """Return the literal `true`, `false` or `null` at `at`, and the position after it.

        Raises:
                JsonSyntaxError, IncompleteError: it is none of these.
        """
        word = _LITERALS.get(self.body[at])
        if word is None:
            raise _fault(self.body[at], "looking for beginning of value")
        found = self.body[at : at + len(word)]
        if found == word:
            return word.decode("ascii"), at + len(word)
        for have, want in zip(found, word, strict=False):
            if have != want:
                raise _fault(have, f"in literal {word.decode('ascii')} (expecting '{chr(want)}')")
        raise IncompleteError

    def scalar(self, at: int, byte: int) -> tuple[str, int]:
        """Return the scalar that begins with `byte` at `at`, encoded as Go encodes it, and the position after it.

        Raises:
            JsonSyntaxError, IncompleteError: it is not a scalar.
        """
        if byte == _QUOTE:
            text, at = self.string(at)
            return quote(text), at
        if byte == 0x2D or 0x30 <= byte <= 0x39:
            text, at = self.number(at)
            if len(text) < 16 and text.isdigit():
                return text, at  # float64 holds it exactly
            encoded = number(text)
            if encoded is None:
                if self._overflow is None:
                    self._overflow = text
                encoded = "null"
            return encoded, at
        return self.literal(at)

    def value(self, at: int, depth: int) -> tuple[Node, int]:
        """Return the value that begins at or after `at`, and the position after it.

        Parameters:
            at: the position at which to begin.
            depth: the number of containers around the value.

        Raises:
            JsonSyntaxError, IncompleteError: it is not a whole value.
        """
        opened: list[Node] = []
        keys: list[str] = []
        node: Node
        while True:
            at, byte = self.peek(at)
            if byte in (_BRACE, _BRACKET):
                if depth + len(opened) >= MAX_DEPTH:
                    raise _fault(byte, "exceeded max depth")
                node = {} if byte == _BRACE else []
                at, following = self.peek(at + 1)
                if following != (_END_BRACE if byte == _BRACE else _END_BRACKET):
                    opened.append(node)
                    if byte == _BRACE:
                        name, at = self.key(at)
                        keys.append(name)
                    continue
                at += 1
            else:
                node, at = self.scalar(at, byte)
            # A value has ended: add it to its container, then close every container that ends here.
            while True:
                if not opened:
                    return node, at
                container = opened[-1]
                if type(container) is dict:
                    container[keys.pop()] = node
                    at, more = self.after_member(at)
                    if more:
                        name, at = self.key(at)
                        keys.append(name)
                        break
                else:
                    container.append(node)
                    at, byte = self.peek(at)
                    at += 1
                    if byte == _COMMA:
                        break
                    if byte != _END_BRACKET:
                        raise _fault(byte, "after array element")
                node = opened.pop()


def encode(node: Node) -> bytes:
    """Return a value of `Scanner.value` as json.Marshal writes it: compact, with keys sorted by code point."""
    out: list[str] = []
    write = out.append
    # For each open container: its remaining entries, and its closing bracket.
    opened: list[tuple[Any, str]] = []
    while True:
        if type(node) is str:
            write(node)
        elif type(node) is dict:
            write("{")
            opened.append((iter(sorted(node.items())), "}"))
        else:
            write("[")
            opened.append((iter(node), "]"))
        while opened:
            rest, closing = opened[-1]
            entry = next(rest, None)
            if entry is None:
                write(closing)
                opened.pop()
                continue
            if out[-1] not in "{[":  # no scalar is encoded as a single bracket
                write(",")
            if closing == "}":
                write(quote(entry[0]))
                write(":")
                node = entry[1]
            else:
                node = entry
            break
        else:
            return "".join(out).encode("utf-8")

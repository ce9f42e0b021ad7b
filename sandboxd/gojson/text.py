"""Reads and writes strings and numbers as Go's encoding/json does.

Copied behaviour: unquoteBytes (decode.go), appendString (encode.go), quoteChar (scanner.go), strconv.Quote (quote.go),
all Go 1.26. The loops run in C: in the scanner and escaper of the standard library's json package, `str.replace` and
regular expressions.
"""

import math
import re
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed omits it
from json.encoder import encode_basestring

from sandboxd.gojson.floats import json_float

REPLACEMENT = "\ufffd"

_to_escape = re.compile(r'["\\]|[^ -~]').search
_lone_surrogates = re.compile("[\ud800-\udfff]+").sub


def replace_surrogates(text: str) -> str:
    """Replace each surrogate by U+FFFD. A run of them is replaced in one step, so that millions take little time."""
    return _lone_surrogates(lambda run: REPLACEMENT * len(run.group()), text)


def unquote(content: bytes) -> str:
    """Return the text of a JSON string.

    As in Go, each byte that is not UTF-8 and each unpaired escaped surrogate becomes one U+FFFD.

    Parameters:
        content: the well-formed JSON between the quotes.
    """
    # surrogateescape turns every invalid byte into exactly one lone surrogate, which Go's decoder turns into
    # exactly one U+FFFD. errors="replace" would merge several bytes of a truncated sequence into one.
    text = content.decode("utf-8", "surrogateescape")
    if "\\" in text:
        text, _ = scanstring(text + '"', 0)
    return text if text.isascii() else replace_surrogates(text)


def quote(text: str) -> str:
    """Return a string as json.Marshal writes it: HTML-escaped, U+2028 and U+2029 escaped, other non-ASCII unescaped."""
    out: str = encode_basestring(text)
    out = out.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    if out.isascii():
        return out
    return out.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def number(literal: str) -> str | None:
    """Return a number as json.Marshal writes it after conversion to float64; None if float64 cannot hold it.

    Parameters:
        literal: a well-formed JSON number.
    """
    value = float(literal)
    return None if math.isinf(value) else json_float(value)


def go_quote(text: str) -> str:
    """Return a text in double quotes as strconv.Quote writes it.

    Parameters:
        text: without surrogates.
    """
    return f'"{"".join(_escaped(c, quote=chr(0x22)) for c in text)}"' if _to_escape(text) else f'"{text}"'


def quote_char(byte: int) -> str:
    """Return a byte as Go's syntax errors show it: the character of that code point, quoted as by strconv.Quote."""
    return f"'{_escaped(chr(byte), quote=chr(0x27))}'"


def _escaped(character: str, quote: str) -> str:
    if character in (quote, "\\"):
        return "\\" + character
    if character.isprintable():
        return character
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_SHORT_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\v": "\\v",
    "\f": "\\f",
    "\r": "\\r",
}

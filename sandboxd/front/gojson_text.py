"""Strings and numbers as Go's encoding/json reads and writes them.

Copied behaviour: unquoteBytes (decode.go), appendString and floatEncoder (encode.go), quoteChar (scanner.go),
all Go 1.26. The loops run in C: the scanner and the escaper of the standard library's json package, `str.replace`
and regular expressions.
"""

import math
import re
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed omits it
from json.encoder import encode_basestring

REPLACEMENT = "\ufffd"

_lone_surrogates = re.compile("[\ud800-\udfff]+").sub


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for each surrogate. Runs of them are one step, so that millions do not take long."""
    return _lone_surrogates(lambda run: REPLACEMENT * len(run.group()), text)


def unquote(content: bytes) -> str:
    """The text of a JSON string token.

    Bytes that are not UTF-8 and escaped surrogates without a partner become U+FFFD, one each, as in Go.

    Parameters:
        content: what stands between the quotes, already known to be well-formed JSON.
    """
    # surrogateescape turns every invalid byte into exactly one lone surrogate, which Go's decoder turns into
    # exactly one U+FFFD. errors="replace" would merge several bytes of a truncated sequence into one.
    text = content.decode("utf-8", "surrogateescape")
    if "\\" in text:
        text, _ = scanstring(text + '"', 0)
    return text if text.isascii() else replace_surrogates(text)


def quote(text: str) -> str:
    """A string as json.Marshal writes it: HTML-escaped, U+2028 and U+2029 escaped, other non-ASCII raw."""
    out: str = encode_basestring(text)
    out = out.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    if out.isascii():
        return out
    return out.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def number(literal: str) -> str | None:
    """A number literal after its way through float64, as json.Marshal writes it; None if float64 cannot hold it.

    Parameters:
        literal: a well-formed JSON number.
    """
    value = float(literal)
    if math.isinf(value):
        return None
    text = repr(value)
    magnitude = abs(value)
    if magnitude != 0 and (magnitude < 1e-6 or magnitude >= 1e21):
        # repr is in exponent form here and differs from Go's only in e-07, which Go shortens to e-7.
        return text.replace("e-0", "e-")
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def quote_char(byte: int) -> str:
    """A byte as Go's syntax errors show it: the character of that code point, quoted by strconv.Quote's rules."""
    if byte in _CHARACTER_ESCAPES:
        return f"'{_CHARACTER_ESCAPES[byte]}'"
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    if 0x80 <= byte <= 0xA0 or byte == 0xAD:  # what strconv.IsPrint denies below U+0100
        return f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"


_CHARACTER_ESCAPES = {
    0x07: "\\a",
    0x08: "\\b",
    0x09: "\\t",
    0x0A: "\\n",
    0x0B: "\\v",
    0x0C: "\\f",
    0x0D: "\\r",
    0x27: "\\'",
    0x5C: "\\\\",
}

"""Makes text from others safe for a terminal: it cannot steer the terminal, hide text or turn it around.

A pipe or a file gets the bytes as they are.
"""

import codecs
import re
from typing import Final, TextIO

from sandboxd.errors import printable

_RESET: Final = b"\x1b[0m"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]*m")
_BEGINS_COLOUR: Final = re.compile(r"(?:\x1b\[?[0-9;:]{0,32}|\r)\Z")
"""The end of a piece that may go on as a colour, or as a line end of two characters."""
_TAKEN: Final = re.compile(r"(\n|\t|\r\n|\x1b\[[0-9;:]*m)")


class TerminalText:
    """Makes a text safe that comes in pieces.

    Line ends, tabs and colours (SGR) pass, and colours are ended with the text. Everything else that is not printable
    is escaped, be it bytes that are no UTF-8.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""
        self._coloured = False

    def __repr__(self) -> str:
        return f"<TerminalText holding {len(self._held)} characters>"

    def feed(self, data: bytes) -> bytes:
        """Return what may be written of the text so far."""
        text = self._held + self._decoder.decode(data)
        begun = _BEGINS_COLOUR.search(text)
        at = len(text) if begun is None else begun.start()
        self._held = text[at:]
        return self._safe(text[:at])

    def end(self) -> bytes:
        """Return the rest."""
        rest = self._safe(self._held + self._decoder.decode(b"", final=True))
        self._held = ""
        return rest + (_RESET if self._coloured else b"")

    def _safe(self, text: str) -> bytes:
        if text.isprintable():
            return text.encode("utf-8", "backslashreplace")
        self._coloured = self._coloured or _COLOUR.search(text) is not None
        parts = _TAKEN.split(text)
        # The odd ones are what passes.
        return "".join(part if at % 2 else printable(part) for at, part in enumerate(parts)).encode()


def safe_for(stream: TextIO, data: bytes) -> bytes:
    """Return what a stream is to be given of what others wrote: all of it, made safe if the stream is a terminal."""
    if not stream.isatty():
        return data
    text = TerminalText()
    return text.feed(data) + text.end()

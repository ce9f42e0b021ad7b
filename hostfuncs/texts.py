"""Bounds for texts that a guest has a part in.

A guest chooses the payload of an error, the names of its functions, imports and exports, and what it writes. Where
such a text goes into an error or a log, it is cut here: once where it is made, and again by whoever receives it.
"""

from typing import Final

MAX_BYTES: Final = 4096
"""Longest text of a guest in an error or a line of log, its note included. Bytes of UTF-8."""
PART_BYTES: Final = 3072
"""Longest part of such a text that a guest alone has chosen, so that what stands around it is not cut."""
_NOTE_BYTES: Final = 48
TRACE_BYTES: Final = 2100
"""Longest text that tells where a guest trapped. Bytes of UTF-8."""
TARGET_CHARS: Final = 200
"""Longest text that names where a denied request was to go."""


class _Count:
    def __init__(self) -> None:
        self.total = 0


cuts: Final = _Count()
"""The number of texts that were cut in this process. It only grows."""


def bounded(text: str, most: int = MAX_BYTES) -> str:
    """Return `text`, or its beginning and a note of how much was cut.

    Parameters:
        text: of any length; only its beginning is looked at if it is too long.
        most: bytes of UTF-8 the result may have, at least 64.
    """
    if len(text) <= most // 4 or (len(text) <= most and len(text.encode("utf-8", "surrogatepass")) <= most):
        return text
    cuts.total += 1
    kept = text[:most].encode("utf-8", "surrogatepass")[: most - _NOTE_BYTES].decode("utf-8", "ignore")
    return f"{kept}... ({len(text) - len(kept)} more characters were cut)"


def ending(data: bytes, most: int = MAX_BYTES) -> str:
    """Return the end of what was written, as text, after a note of how much was cut.

    Parameters:
        data: bytes that should be UTF-8; what is not becomes U+FFFD.
        most: bytes of UTF-8 the result may have, at least 64; at most three times as many where the bytes are no UTF-8.
    """
    if len(data) <= most:
        return data.decode("utf-8", "replace")
    cuts.total += 1
    kept = data[-(most - _NOTE_BYTES) :]
    # At most three bytes are the rest of a character that was cut in two.
    kept = kept[next((at for at in range(4) if kept[at] & 0xC0 != 0x80), 0) :]
    return f"({len(data) - len(kept)} bytes were cut) ...{kept.decode('utf-8', 'replace')}"

"""Durations, sizes and counts as people write them: `1m30s`, `250ms`, `4Mi`, `64KiB`, `64`."""

import re
from enum import Enum, auto
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5 and U+03BC, as Go accepts both
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = r"([0-9]{0,40})(?:\.([0-9]{0,40}))?(ns|us|µs|μs|ms|s|m|h)"
_DURATION_PART = re.compile(_PART)
_MAX_NS = (1 << 63) - 1
_NS_PER_MS = 1_000_000

_SIZE_TEXT = r"([0-9]{1,18})(?:\.([0-9]{1,9}))?\s?(?:([kKMGT])(i?)(B?)|B)?"
_SIZE = re.compile(_SIZE_TEXT, re.ASCII)
_POWER = {"K": 1, "M": 2, "G": 3, "T": 4}
_MAX_SIZE = (1 << 63) - 1


def parse_duration_ns(text: str) -> int:
    """Return the nanoseconds of a duration in Go's notation (time.ParseDuration), such as `5s`, `1m30s`, `1.5h` or `0`.

    Fractions of a unit are computed in floating point and cut to nanoseconds, as Go does.

    Parameters:
        text: the duration; negative ones are refused.

    Raises:
        ValueError: the text is not a duration, is negative, or is over about 292 years. The message says which.
    """
    wrong = ValueError("not a duration such as 250ms, 5s or 1m30s")
    body = text.removeprefix("+")
    if body == "0":
        return 0
    if body.startswith("-"):
        raise ValueError("a negative duration")
    if not body or len(body) > 200:
        raise wrong
    total = at = 0
    while at < len(body):
        part = _DURATION_PART.match(body, at)
        if part is None or not (part[1] or part[2]):
            raise wrong
        unit = _NS[part[3]]
        total += int(part[1] or "0") * unit
        if part[2]:
            # In floating point, as in Go: 0.3333333333333333h is 20 minutes.
            total += int(float(int(part[2])) * (unit / float(10 ** len(part[2]))))
        at = part.end()
    if total > _MAX_NS:
        raise ValueError("a duration over 292 years")
    return total


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds of a duration in Go's notation, rounded up so that a positive one never becomes 0.

    Raises:
        ValueError: as parse_duration_ns.
    """
    return -(-parse_duration_ns(text) // _NS_PER_MS)


def format_duration_ms(value: int) -> str:
    """Return the shortest exact notation: 90000 is `1m30s`, 250 is `250ms`, 0 is `0s`. parse_duration_ms reads it."""
    if value % 1000:
        return f"{value}ms"
    minutes, seconds = divmod(value // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n]
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Return the bytes of a size: plain (`65536`), binary (`64Ki`, `64KiB`) or decimal (`64k`, `64MB`).

    `1.5Gi` is fine, `1.5` is not.

    Raises:
        ValueError: the text is not a size or not a whole number of bytes, or the size is over 2^63 - 1 bytes.
    """
    match = _SIZE.fullmatch(text.strip(" "))
    if match is None:
        raise ValueError("not a size such as 65536, 64Ki, 4MiB or 1G")
    whole, fraction, prefix, binary, _ = match.groups()
    unit = 1
    for _step in range(_POWER[prefix.upper()] if prefix else 0):
        unit *= 1024 if binary else 1000
    scaled, rest = divmod(int(fraction or "0") * unit, 10 ** len(fraction or ""))
    if rest:
        raise ValueError("not a whole number of bytes")
    value: int = int(whole) * unit + scaled
    if value > _MAX_SIZE:
        raise ValueError("a size over 2^63 - 1 bytes")
    return value


def format_size(value: int) -> str:
    """Return the shortest exact binary notation: 4194304 is `4Mi`, 1000 is `1000`. parse_size reads it back."""
    for suffix, power in (("Ti", 4), ("Gi", 3), ("Mi", 2), ("Ki", 1)):
        unit = 1024**power
        if value and value % unit == 0:
            return f"{value // unit}{suffix}"
    return str(value)


class Unit(Enum):
    """The notations of numbers."""

    DURATION = auto()
    """Milliseconds, written `250ms`, `30s`, `1m30s`."""
    SIZE = auto()
    """Bytes, written `65536`, `64Ki`, `4MiB`."""
    COUNT = auto()
    """A whole number."""

    @property
    def pattern(self) -> str:
        """A regular expression, of Python and of JSON Schema, for every text that `parse` takes and few others."""
        match self:
            case Unit.DURATION:
                return rf"\+?(?:0|(?:{_PART})+)"
            case Unit.SIZE:
                return f" *{_SIZE_TEXT} *"
            case Unit.COUNT:
                return r"[0-9]{1,18}"

    def parse(self, text: str) -> int:
        """Return the number that `text` means.

        Raises:
            ValueError: the text is not such a number. The message says what was expected.
        """
        if self is Unit.DURATION:
            return parse_duration_ms(text)
        if self is Unit.SIZE:
            return parse_size(text)
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise ValueError("not a whole number such as 64")
        return int(text)

    def format(self, value: int) -> str:
        """Return the text that `parse` reads back as `value`."""
        if self is Unit.DURATION:
            return format_duration_ms(value)
        return format_size(value) if self is Unit.SIZE else str(value)

    def show(self, value: int) -> str:
        """Return the value for messages: `16 MiB`, `1000 bytes`, `30s`, `64`."""
        text = self.format(value)
        if self is not Unit.SIZE:
            return text
        return f"{value} bytes" if text.isdigit() else f"{text[:-2]} {text[-2:]}B"

"""Writes floating-point numbers as Go does: encoding/json's floatEncoder and strconv.FormatFloat (both Go 1.26)."""

import math
from decimal import Decimal


def json_float(value: float) -> str:
    """Return a float as Go's encoding/json writes it (floatEncoder): with an exponent below 1e-6 and from 1e21.

    Raises:
        ValueError: it is infinite or not a number, which JSON cannot express.
    """
    if not math.isfinite(value):
        raise ValueError(f"{general_float(value)} cannot be written as JSON")
    text = repr(value)
    magnitude = abs(value)
    if magnitude != 0 and (magnitude < 1e-6 or magnitude >= 1e21):
        # repr writes an exponent here. It differs from Go's only in e-07, which Go shortens to e-7.
        return text.replace("e-0", "e-")
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def general_float(value: float) -> str:
    """Return a float in Go's %g with the fewest digits (FormatFloat(v, 'g', -1, 64)): 1.0 is `1`, 1e6 is `1e+06`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign = "-" if math.copysign(1, value) < 0 else ""
    shortest = Decimal(repr(abs(value))).normalize()
    power = shortest.adjusted()
    if not shortest or -4 <= power < 6:
        return sign + format(shortest, "f")
    digits = "".join(map(str, shortest.as_tuple().digits))
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'-' if power < 0 else '+'}{abs(power):02d}"

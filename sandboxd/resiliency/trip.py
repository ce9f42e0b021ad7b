"""The expression that opens a circuit breaker, in a subset of CEL.

Dapr evaluates `trip` with CEL (dapr pkg/expr; github.com/google/cel-spec). Here an expression can calculate with the
numbers in NAMES, compare them, and combine the comparisons. Anything else is refused when the resource is read, not
when a guest has failed.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, cast

NAMES: Final = ("requests", "totalSuccesses", "totalFailures", "consecutiveSuccesses", "consecutiveFailures")
MAX_CHARACTERS: Final = 1000
MAX_DEPTH: Final = 50

Number = int | float
_Values = Mapping[str, int]
_Numeric = Callable[[_Values], Number]
_Boolean = Callable[[_Values], bool]

_TOKEN = re.compile(
    r"\s*(?:([0-9]+\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|0[xX][0-9a-fA-F]+|[0-9]+)"
    r"|([A-Za-z_][A-Za-z0-9_]*)|(&&|\|\||[<>=!]=|[-+*/%<>!()]))"
)
_COMPARISONS: Final[Mapping[str, Callable[[Number, Number], bool]]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}
_CONVERSIONS: Final = ("int", "double")


class TripError(ValueError):
    """The text is not an expression of the subset. The message says why."""


class _EvaluationError(Exception):
    """CEL has no value for the expression, for example because of a division by zero."""


class Trip:
    """An expression.

    Parameters:
        text: the expression as written.

    Raises:
        TripError: the text is not an expression, or uses parts of CEL that are not supported.
    """

    __slots__ = ("_holds", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._holds = _Parser(text).parse()

    def __repr__(self) -> str:
        return f"Trip({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trip) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def holds(self, values: _Values) -> bool:
        """Return whether the expression is true. An expression without a value is false, as in Dapr.

        Parameters:
            values: the number of each of NAMES.
        """
        try:
            return self._holds(values)
        except _EvaluationError:
            return False


class _Typed(NamedTuple):
    """A part of an expression."""

    boolean: bool
    """Whether it is true or false, and not a number."""
    value: _Numeric


class _Parser:
    """A recursive-descent parser that turns a text into functions. It follows CEL's grammar and checks the types."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise TripError(f"longer than {MAX_CHARACTERS} characters")
        self._tokens = self._split(text.strip())
        self._at = 0
        self._depth = 0

    def _split(self, text: str) -> list[str]:
        tokens, at = [], 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise TripError(f"{text[at:].split(None, 1)[0][:40]!r} is not supported")
            tokens.append(match[0].strip())
            at = match.end()
        return tokens

    def parse(self) -> _Boolean:
        found = self._or()
        if self._at < len(self._tokens):
            raise TripError(f"{self._tokens[self._at]!r} is not expected at its place")
        return self._boolean(found)

    def _next(self, *wanted: str) -> str:
        """Take the next token if it is one of these; else return an empty text."""
        if self._at < len(self._tokens) and self._tokens[self._at] in wanted:
            self._at += 1
            return self._tokens[self._at - 1]
        return ""

    def _boolean(self, found: _Typed) -> _Boolean:
        if not found.boolean:
            raise TripError("a number where true or false is expected")
        return cast(_Boolean, found.value)

    def _numeric(self, found: _Typed) -> _Numeric:
        if found.boolean:
            raise TripError("true or false where a number is expected")
        return found.value

    def _or(self) -> _Typed:
        return self._logic("||", True, lambda: self._logic("&&", False, self._comparison))

    def _logic(self, operator: str, decisive: bool, operand: Callable[[], _Typed]) -> _Typed:
        found = operand()
        if not self._next(operator):
            return found
        parts = [self._boolean(found), self._boolean(operand())]
        while self._next(operator):
            parts.append(self._boolean(operand()))

        def value(values: _Values) -> bool:
            # As in CEL, one decisive operand is enough: errors of the other operands are then ignored.
            error: _EvaluationError | None = None
            for part in parts:
                try:
                    if part(values) is decisive:
                        return decisive
                except _EvaluationError as raised:
                    error = raised
            if error is not None:
                raise error
            return not decisive

        return _Typed(True, value)

    def _comparison(self) -> _Typed:
        left = self._sum()
        operator = self._next(*_COMPARISONS)
        if not operator:
            return left
        right = self._sum()
        compare = _COMPARISONS[operator]
        if left.boolean and right.boolean and operator in ("==", "!="):
            first_b, second_b = self._boolean(left), self._boolean(right)
            return _Typed(True, lambda values: compare(first_b(values), second_b(values)))
        first, second = self._numeric(left), self._numeric(right)
        return _Typed(True, lambda values: compare(first(values), second(values)))

    def _sum(self) -> _Typed:
        return self._arithmetic(("+", "-"), lambda: self._arithmetic(("*", "/", "%"), self._unary))

    def _arithmetic(self, operators: tuple[str, ...], operand: Callable[[], _Typed]) -> _Typed:
        found = operand()
        while operator := self._next(*operators):
            found = _Typed(False, _combined(operator, self._numeric(found), self._numeric(operand())))
        return found

    def _unary(self) -> _Typed:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TripError(f"nested deeper than {MAX_DEPTH} levels")
        try:
            if self._next("!"):
                inner = self._boolean(self._unary())
                return _Typed(True, lambda values: not inner(values))
            if self._next("-"):
                number = self._numeric(self._unary())
                return _Typed(False, lambda values: _checked(-number(values)))
            return self._primary()
        finally:
            self._depth -= 1

    def _primary(self) -> _Typed:
        if self._at >= len(self._tokens):
            raise TripError("it ends too early")
        token = self._tokens[self._at]
        self._at += 1
        if token == "(":  # noqa: S105 - a bracket
            found = self._or()
            if not self._next(")"):
                raise TripError("a ) is missing")
            return found
        if token in ("true", "false"):
            truth = token == "true"  # noqa: S105 - a word of the language
            return _Typed(True, lambda _: truth)
        if token in NAMES:
            return _Typed(False, lambda values: values[token])
        if token in _CONVERSIONS and self._next("("):
            number = self._numeric(self._or())
            if not self._next(")"):
                raise TripError("a ) is missing")
            if token == "double":  # noqa: S105 - a word of the language
                return _Typed(False, lambda values: float(number(values)))
            return _Typed(False, lambda values: _whole(number(values)))
        if token[0].isdigit():
            return self._literal(token)
        raise TripError(f"{token!r} is not supported; the numbers are {', '.join(NAMES)}")

    def _literal(self, token: str) -> _Typed:
        if token[:2].lower() == "0x":
            number: Number = int(token, 16)
        else:
            number = int(token) if token.isdigit() else float(token)
        if isinstance(number, int) and number >= 1 << 63:
            raise TripError(f"{token} is larger than a 64-bit number")
        return _Typed(False, lambda _: number)


def _combined(operator: str, first: _Numeric, second: _Numeric) -> _Numeric:
    def value(values: _Values) -> Number:
        left, right = first(values), second(values)
        if type(left) is not type(right):
            raise _EvaluationError("CEL has no arithmetic of an integer and a fraction")
        if operator == "+":
            return _checked(left + right)
        if operator == "-":
            return _checked(left - right)
        if operator == "*":
            return _checked(left * right)
        if isinstance(left, int) and isinstance(right, int):
            if right == 0:
                raise _EvaluationError("a division by zero")
            # Towards zero, as in Go; the remainder has the sign of the dividend.
            quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
            return _checked(quotient if operator == "/" else left - quotient * right)
        if operator == "%":
            raise _EvaluationError("CEL has no remainder of fractions")
        if right == 0:
            if left == 0 or math.isnan(left):
                return math.nan
            return math.copysign(math.inf, left) * math.copysign(1, right)
        return left / right

    return value


def _checked(number: Number) -> Number:
    if isinstance(number, int) and not -(1 << 63) <= number < 1 << 63:
        raise _EvaluationError("a number of more than 64 bits")
    return number


def _whole(number: Number) -> int:
    if isinstance(number, float) and not abs(number) < 1 << 63:
        raise _EvaluationError("a number of more than 64 bits")
    return int(number)

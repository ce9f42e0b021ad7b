"""Whether something that costs a little and pays if one is lucky has paid lately."""

from typing import Final

_COST: Final = 8
"""A failure outweighs this many successes."""
_TOO_DEEP: Final = 32
"""Debt from which on it is not tried; each time it could have been lowers the debt by one."""


class Payoff:
    """Lets something be tried as long as at least eight of nine tries succeed; else about once in nine times."""

    __slots__ = ("_debt",)

    def __init__(self) -> None:
        self._debt = 0

    def __repr__(self) -> str:
        return f"<Payoff debt={self._debt}>"

    def worth_trying(self) -> bool:
        """Ask each time it could be tried."""
        if self._debt < _TOO_DEEP:
            return True
        self._debt -= 1
        return False

    def succeeded(self) -> None:
        """It paid."""
        if self._debt:
            self._debt -= 1

    def failed(self) -> None:
        """It cost time for nothing."""
        self._debt += _COST

"""An adaptive gate: stops an optimistic optimisation while it keeps failing."""

from typing import Final

_COST: Final = 8
"""The debt of one failure; a success pays back 1."""
_CLOSED_FROM: Final = 32
"""The debt from which the gate is closed. Each attempt that it then refuses lowers the debt by one."""


class AdaptiveGate:
    """Allows attempts while at least eight of nine succeed; otherwise about one in nine."""

    __slots__ = ("_debt",)

    def __init__(self) -> None:
        self._debt = 0

    def __repr__(self) -> str:
        return f"<AdaptiveGate debt={self._debt}>"

    def allow(self) -> bool:
        """Return whether to make this attempt. Call it once per possible attempt."""
        if self._debt < _CLOSED_FROM:
            return True
        self._debt -= 1
        return False

    def succeeded(self) -> None:
        """Record that an attempt succeeded."""
        if self._debt:
            self._debt -= 1

    def failed(self) -> None:
        """Record that an attempt failed."""
        self._debt += _COST

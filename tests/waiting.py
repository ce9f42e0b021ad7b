"""Waits for conditions that no event announces: memory that is returned, a process that is gone, a count."""

import time
from collections.abc import Callable

BOUND_S = 60.0
"""No wait is longer; reaching it is a failure."""
REST_S = 0.005
"""Between two looks. A loop without a rest would take the processor from the server that it waits for."""


def until(true: Callable[[], object], what: str, bound_s: float = BOUND_S) -> None:
    """Look again and again until it is true.

    Parameters:
        true: whether it is.
        what: for the message.
        bound_s: seconds after which it is given up.

    Raises:
        AssertionError: it did not become true.
    """
    end = time.monotonic() + bound_s
    while not true():
        assert time.monotonic() < end, f"not within {bound_s:g} s: {what}"
        time.sleep(REST_S)

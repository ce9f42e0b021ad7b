"""The ending of a run in the server's terms: outcomes, and limits by the keys that operators set."""

from __future__ import annotations

import sys
from typing import Final

from hostfuncs import outcome as outcomes
from hostfuncs.running import endings
from sandboxd.limits.keys import key_of, shown
from sandboxd.outcome import Outcome


class KeyNames:
    """Limits by the keys of component metadata and sandboxd.yaml. A `hostfuncs.running.endings.LimitNames`."""

    def name(self, limit: str) -> str:
        """See LimitNames."""
        return key_of(limit)

    def amount(self, limit: str, value: int) -> str:
        """See LimitNames."""
        return shown(limit, value)


KEY_NAMES: Final = KeyNames()

_OUTCOMES: Final = {outcome: Outcome(outcome.value) for outcome in outcomes.Outcome}


def outcome_of(ending: endings.Ending) -> Outcome:
    """Return the server's name of an outcome."""
    return _OUTCOMES[ending.outcome]


def report(binding: str, ending: endings.Ending) -> None:
    """Write what is for the operator to stderr, from where the front takes it to the log."""
    if ending.log:
        print(f"{binding}: {ending.log}", file=sys.stderr, flush=True)

"""The names of limits in messages and metrics, and their conversion for `hostfuncs`, made from their fields."""

import dataclasses
from typing import Any, Final, TypeVar

from sandboxd.limits.about import About, described
from sandboxd.limits.model import EngineSettings, Limits

LIMITS: Final[dict[str, About]] = {field.name: about for field, about in described(Limits)}
"""Limits by their field, in the order of the documentation."""

DEFAULT_CEILINGS: Final = Limits(**{field: about.ceiling for field, about in LIMITS.items()})
"""The highest limits that a component may set unless sandboxd.yaml says otherwise."""

_KEYS: Final = {name: (about, about.key) for name, about in LIMITS.items()} | {
    field.name: (about, f"wasm.{about.key}") for field, about in described(EngineSettings)
}


def key_of(field: str) -> str:
    """Return the key that sets a limit: in component metadata, or, with a dot, in sandboxd.yaml.

    Parameters:
        field: of Limits or EngineSettings.
    """
    return _KEYS[field][1]


def shown(field: str, value: int) -> str:
    """Return an amount in the unit of a limit, for people."""
    return _KEYS[field][0].unit.show(value)


def named(field: str, value: int) -> str:
    """Return a limit as messages to callers name it: its value and its key, `16 MiB (stdoutLimit)`.

    Parameters:
        field: of Limits or EngineSettings.
        value: the limit's value.
    """
    return f"{shown(field, value)} ({key_of(field)})"


BODY_KEY: Final = "listen.maxBodySize"
CONNECTIONS_KEY: Final = "egress.connections"

ALL_KEYS: Final = frozenset((*(key for _, key in _KEYS.values()), BODY_KEY, CONNECTIONS_KEY))
"""Every key that `sandboxd_limits_reached_total` can have as its label."""

_BY_ERROR_CODE: Final = {code: about.key for about in LIMITS.values() for code in about.error_codes} | {
    "connection-limit-reached": CONNECTIONS_KEY
}
_AMBIGUOUS_CODES: Final = frozenset(("HTTP-request-denied", "HTTP-request-body-size"))
"""Codes that have other causes, too. They count only if the outbound client says that a limit was the reason."""


def outbound_limit(code: str, denied: str) -> str:
    """Return the key of the limit that an outbound request met; empty if it met none.

    Parameters:
        code: the request's end: `ok` or the name of a wasi-http error code.
        denied: the reason of a refusal; empty if the request was not refused.
    """
    if code in _AMBIGUOUS_CODES and denied != "limit":
        return ""
    return _BY_ERROR_CODE.get(code, "")


_T = TypeVar("_T")


def converted(values: Any, kind: type[_T], prefix: str = "") -> _T:
    """Return settings as another dataclass. Every field that both have by the same name is copied.

    Parameters:
        values: an instance of a dataclass, such as `Limits`.
        kind: a dataclass of `hostfuncs`. Fields that `values` does not have keep their defaults.
        prefix: the beginning of names in `values` that `kind` leaves out. With it, only such fields are copied.

    Raises:
        TypeError: `values` has a field with that prefix that `kind` does not have, so it would not be enforced.
    """
    names = [field.name for field in dataclasses.fields(values) if field.name.startswith(prefix)]
    if not prefix:
        wanted = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        names = [name for name in names if name in wanted]
    return kind(**{name.removeprefix(prefix): getattr(values, name) for name in names})

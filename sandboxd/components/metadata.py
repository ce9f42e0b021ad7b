"""The table of the metadata keys of `bindings.wasm`: the function that reads each key, and its documentation.

`url`, `direction` and `strictSandbox` are Dapr's (components-contrib common/wasm/wasm.go, dapr
pkg/runtime/processor/binding). The others are sandboxd's; Dapr ignores them.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sandboxd.components.binding import Isolation
from sandboxd.components.mounts import MountPolicy, read_mounts, read_tmp
from sandboxd.components.properties import FALSY, TRUTHY, InvalidError, Property
from sandboxd.components.url import UrlError, check_url
from sandboxd.limits import Limits
from sandboxd.limits.about import About, Kind
from sandboxd.limits.keys import LIMITS
from sandboxd.limits.units import Unit
from sandboxd.wire.streams import StdinKind, StdoutKind

ENV_PREFIX: Final = "env."
MAX_HOST_PATTERNS: Final = 1_000
"""The most patterns in one allowedOutboundHosts."""

_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_CONTENT_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ -~]*)")

PatternCheck = Callable[[str], object]
"""Raises ValueError if its argument is not an egress pattern."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyContext:
    """The context in which the value of a key is read."""

    ceilings: Limits
    check_pattern: PatternCheck | None
    folder: Path
    """The folder of the component's file."""
    mounts: MountPolicy


def _url(prop: Property, context: KeyContext) -> Mapping[str, Any]:
    try:
        check_url(prop.value, _plain(prop), confidential=prop.confidential)
    except UrlError as error:
        raise InvalidError(str(error), error.remedy) from None
    return {"url": prop.value}


def _plain(prop: Property) -> str:
    return prop.shown if prop.confidential else prop.value[:500]


def _direction(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    return {}  # `serves_output` reads it before the binding is built


def _strict_sandbox(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    return {"strict_sandbox": prop.value.strip().lower() in TRUTHY}


def _sha256(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    match = _SHA256.fullmatch(prop.value.strip().lower())
    if match is None:
        raise InvalidError(f"sha256 {prop.shown} is not 64 hexadecimal digits", "sha256sum prints it")
    return {"sha256": match[1]}


_CONCURRENCY: Final = About(
    key="maxConcurrency",
    kind=Kind.NUMBER,
    unit=Unit.COUNT,
    low=0,
    high=1_000_000,
    meaning="invocations of this binding at once",
)


def _max_concurrency(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    return {"max_concurrency": _number(prop, _CONCURRENCY)}


def _content_type(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    if not _CONTENT_TYPE.fullmatch(prop.value):
        raise InvalidError(f"contentType {prop.shown} is not a media type", "write it as text/plain; charset=utf-8")
    return {"content_type": prop.value}


def _choice(field: str, kinds: type[StrEnum]) -> Callable[[Property, KeyContext], Mapping[str, Any]]:
    def read(prop: Property, _: KeyContext) -> Mapping[str, Any]:
        try:
            return {field: kinds(prop.value.strip())}
        except ValueError:
            raise InvalidError(f"{field} {prop.shown} is none of {', '.join(kinds)}") from None

    return read


def _one_of(words: Iterable[str]) -> str:
    return rf"\s*(?:{'|'.join(words)})\s*"


def _traceparent(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    word = prop.value.strip().lower()
    if word not in TRUTHY + FALSY:
        raise InvalidError(f"traceparent {prop.shown} is neither true nor false")
    return {"traceparent": word in TRUTHY}


def _warm_start(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    word = prop.value.strip().lower()
    if word not in TRUTHY + FALSY:
        raise InvalidError(f"warmStart {prop.shown} is neither true nor false")
    return {"warm_start": word in TRUTHY}


_EXPORT: Final = r"(?!(?:true|false)\s*$)[A-Za-z_$][!-~]{0,199}"
"""The names of exported functions that are taken: what compilers write, and nothing that was meant as a switch."""
_WARM_INSTANCES: Final = About(
    key="warmInstances",
    kind=Kind.NUMBER,
    unit=Unit.COUNT,
    low=0,
    high=256,
    meaning="with `warmStart`, guests kept ready for each set of arguments; `0` adapts to the demand",
)
_WARM_TEMPLATES: Final = About(
    key="warmTemplates",
    kind=Kind.NUMBER,
    unit=Unit.COUNT,
    low=1,
    high=1_000,
    meaning="with `warmStart`, sets of arguments that are started warm at once",
)


def _warm_instances(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    return {"warm_instances": _number(prop, _WARM_INSTANCES)}


def _warm_templates(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    return {"warm_templates": _number(prop, _WARM_TEMPLATES)}


def _warm_until(prop: Property, _: KeyContext) -> Mapping[str, Any]:
    name = prop.value.strip()
    if not re.fullmatch(_EXPORT, name):
        raise InvalidError(
            f"warmUntil {prop.shown} is neither stdin nor the name of a function", "such as wizer.initialize"
        )
    return {"initialize": "" if name == "stdin" else name}


def _mounts(prop: Property, context: KeyContext) -> Mapping[str, Any]:
    return {"mounts": read_mounts(prop, context.folder, context.mounts)}


def _tmp(prop: Property, context: KeyContext) -> Mapping[str, Any]:
    return {"tmp": read_tmp(prop, context.mounts)}


def _allowed_hosts(prop: Property, context: KeyContext) -> Mapping[str, Any]:
    patterns = _patterns(prop)
    if len(patterns) > MAX_HOST_PATTERNS:
        raise InvalidError(f"allowedOutboundHosts has {len(patterns)} entries; at most {MAX_HOST_PATTERNS} are read")
    for pattern in patterns:
        if context.check_pattern is None:
            break
        try:
            context.check_pattern(pattern)
        except ValueError as error:
            shown = "(from a secret)" if prop.confidential else repr(pattern)
            why = "not a pattern" if prop.confidential else str(error)
            raise InvalidError(
                f"allowedOutboundHosts: {shown}: {why}", "write patterns such as https://api.example.com or *"
            ) from None
    return {"allowed_outbound_hosts": patterns}


def _patterns(prop: Property) -> tuple[str, ...]:
    text = prop.value.strip()
    if not text.startswith("["):
        return tuple(part.strip() for part in re.split(r"[,\n]", text) if part.strip())
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if not (isinstance(items, list) and all(isinstance(item, str) and item.strip() for item in items)):
        raise InvalidError("allowedOutboundHosts is not a JSON list of texts", "separate patterns by commas or lines")
    return tuple(item.strip() for item in items)


def _number(prop: Property, about: About) -> int:
    try:
        value = about.unit.parse(prop.value.strip())
    except ValueError as error:
        raise InvalidError(f"{about.key} {prop.shown} is {error}") from None
    try:
        about.check(value)
    except ValueError as error:
        raise InvalidError(f"{about.key}: {'out of range' if prop.confidential else error}") from None
    return value


def _limit(field: str, about: About) -> Callable[[Property, KeyContext], Mapping[str, Any]]:
    def read(prop: Property, context: KeyContext) -> Mapping[str, Any]:
        value = _number(prop, about)
        ceiling: int = getattr(context.ceilings, field)
        if value > ceiling:
            shown = prop.shown if prop.confidential else about.unit.format(value)
            raise InvalidError(
                f"{about.key} {shown} is above the operator's ceiling of {about.unit.format(ceiling)}",
                f"lower it, or raise limits.ceilings.{about.key} in sandboxd.yaml",
            )
        return {field: value}

    return read


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataKey:
    """One key of `bindings.wasm`."""

    key: str
    read: Callable[[Property, KeyContext], Mapping[str, Any]]
    """Returns fields of the Binding, or of its Limits if `limit` is set. Raises InvalidError."""
    limit: str = ""
    """The field of `Limits` that the key sets; empty for the other keys."""
    number: About | None = None
    """The bounds of the value, if it is a number."""
    pattern: str = ""
    """A regular expression that matches every value that the key takes, and few others; empty if it takes any text."""
    default: str = ""
    values: str = ""
    meaning: str = ""


def _key(
    key: str,
    read: Callable[[Property, KeyContext], Mapping[str, Any]],
    default: str,
    values: str,
    meaning: str,
    *,
    pattern: str = "",
    number: About | None = None,
) -> MetadataKey:
    return MetadataKey(
        key=key, read=read, default=default, values=values, meaning=meaning, pattern=pattern, number=number
    )


KEYS: Final = (
    _key(
        "url", _url, "required", "`file://`, `http://`, `https://`",
        "the guest; `file://` is relative to the working directory unless `/` follows",
        pattern="(?:file|https?)://.+",
    ),
    _key("direction", _direction, "`output`", "`input`, `output`", "without `output` the binding is not served"),
    _key(
        "strictSandbox", _strict_sandbox, "`false`", "`true`, `false`",
        "fake clocks, fixed random seed, no sleeping, as in Dapr",
    ),
    _key(
        "sha256", _sha256, "none", "64 hexadecimal digits", "digest the guest must have",
        pattern=r"\s*(?:[sS][hH][aA]256:)?[0-9a-fA-F]{64}\s*",
    ),
    _key(
        _CONCURRENCY.key, _max_concurrency, "`0`", "number; 0 = no limit", _CONCURRENCY.meaning,
        number=_CONCURRENCY,
    ),
    _key(
        "isolation", _choice("isolation", Isolation), "`shared`", "`shared`, `own`",
        "`own`: a zygote and workers for this binding alone, so that no other binding's process has its secrets in its "
        "memory",
        pattern=_one_of(Isolation),
    ),
    _key(
        "contentType", _content_type, "`application/json`", "media type", "Content-Type of successful replies",
        pattern=_CONTENT_TYPE.pattern,
    ),
    _key(
        "stdin", _choice("stdin", StdinKind), "`json`", "`json`, `text`, `base64`",
        "what the guest reads: `data` as JSON text, the characters of a JSON string, or the bytes of one in base64; "
        "a request's metadata `stdin` takes precedence",
        pattern=_one_of(StdinKind),
    ),
    _key(
        "stdout", _choice("stdout", StdoutKind), "`raw`", "`raw`, `base64`, `json`",
        "the reply: what the guest wrote, or a JSON string of it, in base64 or as text; a request's metadata `stdout` "
        "takes precedence",
        pattern=_one_of(StdoutKind),
    ),
    _key(
        "traceparent", _traceparent, "`true`", "`true`, `false`",
        "whether the guest's environment has TRACEPARENT, TRACESTATE and BAGGAGE of the request",
    ),
    _key(
        "warmStart", _warm_start, "`pool.warmStart`", "`true`, `false`",
        "whether the guest is started ahead of requests, up to its first read of stdin or its first outbound request; "
        "see [warm starts](warm-starts.md)",
    ),
    _key(
        _WARM_INSTANCES.key, _warm_instances, "`0`", "number", _WARM_INSTANCES.meaning, number=_WARM_INSTANCES,
    ),
    _key(
        _WARM_TEMPLATES.key, _warm_templates, "`8`", "number", _WARM_TEMPLATES.meaning, number=_WARM_TEMPLATES,
    ),
    _key(
        "warmUntil", _warm_until, "`stdin`", "`stdin`, or the name of an exported function",
        "a function of a core module that every run calls before `_start`; after it, a guest that is started warm "
        "waits; see [warm starts](warm-starts.md#guests-that-say-when-they-are-ready)",
        pattern=rf"\s*{_EXPORT}\s*",
    ),
    _key(
        "mounts", _mounts, "none", "list of `{source, target, readOnly}`",
        "folders that the guest finds at `target`; `source` is relative to the component's file; `readOnly` is `true` "
        "by default",
    ),
    _key(
        "tmp", _tmp, "none", "`{target, size, files}`",
        "a writable folder in memory, empty at each run; by default `size` is `16Mi` and `files` is `1000`",
    ),
    _key(
        "allowedOutboundHosts", _allowed_hosts, "`egress.defaultAllowedHosts`", "list, or separated by commas or lines",
        "patterns of what the guest may call; empty = nothing",
    ),
    *(
        MetadataKey(key=about.key, read=_limit(field, about), limit=field, number=about, meaning=about.meaning)
        for field, about in LIMITS.items()
    ),
)  # fmt: skip
"""Every key except `env.NAME`."""
KEYS_BY_NAME: Final = {entry.key.lower(): entry for entry in KEYS}
"""The keys by their names in lower case."""


def metadata_table(defaults: Limits, ceilings: Limits) -> str:
    """Return all metadata keys as a Markdown table: key, default, values, ceiling, meaning."""
    lines = ["| key | default | values | ceiling | meaning |", "|---|---|---|---|---|"]
    units = {Unit.DURATION: "duration", Unit.SIZE: "size", Unit.COUNT: "number"}
    for entry in KEYS:
        default, values, ceiling = entry.default, entry.values, ""
        if entry.limit:
            about = LIMITS[entry.limit]
            default = f"`{about.unit.format(getattr(defaults, entry.limit))}`"
            values = f"{units[about.unit]}, from {about.unit.format(about.low)}"
            ceiling = f"`{about.unit.format(getattr(ceilings, entry.limit))}`"
        lines.append(f"| `{entry.key}` | {default} | {values} | {ceiling} | {entry.meaning} |")
    lines.append(
        "| `env.NAME` | none | text | | environment variable NAME of the guest; a request cannot override it |"
    )
    return "\n".join(lines) + "\n"

"""Metadata of `bindings.wasm`: the keys, and a Binding made from them.

`url`, `direction` and `strictSandbox` are Dapr's (components-contrib common/wasm/wasm.go, dapr
pkg/runtime/processor/binding); the others are sandboxd's and are ignored by Dapr.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from sandboxd.components.binding import Binding
from sandboxd.components.manifest import Findings, Manifest
from sandboxd.components.resolve import Property
from sandboxd.limit_keys import LIMITS, Bounded, Unit
from sandboxd.limits import Limits
from sandboxd.problems import Severity, did_you_mean
from sandboxd.units import parse_duration_ms

ENV_PREFIX: Final = "env."
MAX_HOST_PATTERNS: Final = 1_000
"""Patterns of one allowedOutboundHosts."""

_TRUTHY = ("y", "yes", "true", "t", "on", "1")
_FALSY = ("n", "no", "false", "f", "off", "0", "")
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_CONTENT_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ -~]*)")
_WASM = "wasm: failed to parse metadata: "

PatternCheck = Callable[[str], object]
"""Raises ValueError if its argument is no egress pattern."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a binding cannot be made."""

    message: str
    remedy: str
    line: int


class _InvalidError(ValueError):
    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """What is known while the keys are read one after the other."""

    limits: Limits
    ceilings: Limits
    check_pattern: PatternCheck | None


def _url(prop: Property, draft: _Draft) -> Mapping[str, Any]:
    """The URL with Dapr's errors in Dapr's order (wasm.go GetInitMetadata)."""
    url = prop.value
    if not url:
        raise _InvalidError(f"{_WASM}missing url", "set url to file://, http:// or https:// and where the guest is")
    scheme, colon, rest = url.partition(":")
    if not colon:
        raise _InvalidError(f"{_WASM}invalid URL: {_plain(prop)}", "begin it with file://, http:// or https://")
    if scheme == "oci":
        raise _InvalidError(f"{_WASM}TODO oci", "OCI images are not supported; serve the guest over http or a file")
    if scheme not in ("file", "http", "https"):
        raise _InvalidError(
            f"{_WASM}unsupported URL scheme: {prop.shown if prop.confidential else scheme}",
            "file, http and https are supported",
        )
    wrong = _InvalidError(f"{_WASM}invalid URL: {_plain(prop)}", f"write {scheme}:// and where the guest is")
    least = 0x20 if scheme == "file" else 0x21  # a file's name may hold spaces
    if not rest.startswith("//") or len(rest) == 2 or any(ord(c) < least or ord(c) == 0x7F for c in rest):
        raise wrong
    if scheme != "file":
        try:
            parts = urlsplit(url)
            port = parts.port  # raises for ports that are none
        except ValueError:
            raise wrong from None
        if not parts.hostname or port == 0:
            raise wrong
    return {"url": url}


def _direction(prop: Property, _: _Draft) -> Mapping[str, Any]:
    return {}  # `serves_output` has read it before a binding is built


def _strict_sandbox(prop: Property, _: _Draft) -> Mapping[str, Any]:
    return {"strict_sandbox": prop.value.strip().lower() in _TRUTHY}


def _sha256(prop: Property, _: _Draft) -> Mapping[str, Any]:
    match = _SHA256.fullmatch(prop.value.strip().lower())
    if match is None:
        raise _InvalidError(f"sha256 {prop.shown} is not 64 hexadecimal digits", "sha256sum prints it")
    return {"sha256": match[1]}


def _max_concurrency(prop: Property, _: _Draft) -> Mapping[str, Any]:
    row = Bounded(field="", key="maxConcurrency", unit=Unit.COUNT, low=0, high=1_000_000, meaning="")
    return {"max_concurrency": _number(prop, row)}


def _content_type(prop: Property, _: _Draft) -> Mapping[str, Any]:
    if not _CONTENT_TYPE.fullmatch(prop.value):
        raise _InvalidError(f"contentType {prop.shown} is no media type", "write it as text/plain; charset=utf-8")
    return {"content_type": prop.value}


def _allowed_hosts(prop: Property, draft: _Draft) -> Mapping[str, Any]:
    patterns = _patterns(prop)
    if len(patterns) > MAX_HOST_PATTERNS:
        raise _InvalidError(f"allowedOutboundHosts has {len(patterns)} entries; at most {MAX_HOST_PATTERNS} are read")
    for pattern in patterns:
        if draft.check_pattern is None:
            break
        try:
            draft.check_pattern(pattern)
        except ValueError as error:
            shown = "(from a secret)" if prop.confidential else repr(pattern)
            why = "not a pattern" if prop.confidential else str(error)
            raise _InvalidError(
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
        raise _InvalidError("allowedOutboundHosts is no JSON list of texts", "separate patterns by commas or lines")
    return tuple(item.strip() for item in items)


def _number(prop: Property, row: Bounded) -> int:
    try:
        value = row.unit.parse(prop.value.strip())
    except ValueError as error:
        raise _InvalidError(f"{row.key} {prop.shown} is {error}") from None
    try:
        row.check(value)
    except ValueError as error:
        raise _InvalidError(f"{row.key}: {'out of range' if prop.confidential else error}") from None
    return value


def _limit(row: Bounded) -> Callable[[Property, _Draft], Mapping[str, Any]]:
    def read(prop: Property, draft: _Draft) -> Mapping[str, Any]:
        value = _number(prop, row)
        ceiling: int = getattr(draft.ceilings, row.field)
        if value > ceiling:
            shown = prop.shown if prop.confidential else row.unit.format(value)
            raise _InvalidError(
                f"{row.key} {shown} is above the operator's ceiling of {row.unit.format(ceiling)}",
                f"lower it, or raise limits.ceilings.{row.key} in sandboxd.yaml",
            )
        return {row.field: value}

    return read


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataKey:
    """One key of `bindings.wasm`."""

    key: str
    read: Callable[[Property, _Draft], Mapping[str, Any]]
    """Fields of the Binding (or, with `limit`, of its Limits)."""
    limit: Bounded | None = None
    default: str = ""
    values: str = ""
    meaning: str = ""


def _key(
    key: str, read: Callable[[Property, _Draft], Mapping[str, Any]], default: str, values: str, meaning: str
) -> MetadataKey:
    return MetadataKey(key=key, read=read, default=default, values=values, meaning=meaning)


KEYS: Final = (
    _key(
        "url", _url, "required", "`file://`, `http://`, `https://`",
        "the guest; `file://` is relative to the working directory unless `/` follows",
    ),
    _key("direction", _direction, "`output`", "`input`, `output`", "without `output` the binding is not served"),
    _key(
        "strictSandbox", _strict_sandbox, "`false`", "`true`, `false`",
        "fake clocks, fixed random seed, no sleeping, as in Dapr",
    ),
    _key("sha256", _sha256, "none", "64 hexadecimal digits", "digest the guest must have"),
    _key("maxConcurrency", _max_concurrency, "`0`", "number; 0 = no limit", "invocations of this binding at once"),
    _key("contentType", _content_type, "`application/json`", "media type", "Content-Type of successful replies"),
    _key(
        "allowedOutboundHosts", _allowed_hosts, "`egress.defaultAllowedHosts`", "list, or separated by commas or lines",
        "who the guest may call; empty = nobody",
    ),
    *(MetadataKey(key=row.key, read=_limit(row), limit=row, meaning=row.meaning) for row in LIMITS),
)  # fmt: skip
"""Every key but `env.NAME`."""

_BY_NAME: Final = {entry.key.lower(): entry for entry in KEYS}


def serves_output(properties: list[Property]) -> bool:
    """Whether `direction`, if there is one, names output."""
    for prop in properties:
        if prop.name.lower() == "direction" and prop.value.strip():
            return "output" in (word.strip().lower() for word in prop.value.split(","))
    return True


def build(
    manifest: Manifest,
    properties: list[Property],
    *,
    defaults: Limits,
    ceilings: Limits,
    strict_sandbox: bool,
    check_pattern: PatternCheck | None,
    findings: Findings,
) -> tuple[Binding | None, list[Fault]]:
    """The binding a component asks for, or every reason why there is none. Warnings go to `findings`.

    Parameters:
        manifest: the component.
        properties: its metadata, resolved; no two names that differ only in case.
        defaults: limits it does not set.
        ceilings: the most it may set.
        strict_sandbox: run it strictly whatever it says.
        check_pattern: raises ValueError for what is no egress pattern; None accepts all.
        findings: where warnings go.
    """
    draft = _Draft(limits=defaults, ceilings=ceilings, check_pattern=check_pattern)
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    limits: dict[str, int] = {}
    env: list[tuple[str, str]] = []
    if not any(prop.name.lower() == "url" for prop in properties):
        properties = [Property(name="url", value="", line=manifest.line, confidential=False), *properties]
    for prop in properties:
        lower = prop.name.lower()
        entry = _BY_NAME.get(lower)
        try:
            if lower.startswith(ENV_PREFIX):
                env.append(_variable(prop))
            elif entry is None:
                _warn_unknown(manifest, prop, findings)
            elif entry.limit is None:
                values.update(entry.read(prop, draft))
            else:
                limits.update(entry.read(prop, draft))
        except _InvalidError as error:
            faults.append(Fault(str(error), error.remedy, prop.line))
        if lower == "strictsandbox":
            _warn_unclear(manifest, prop, findings)
    final = replace(defaults, **limits)
    faults.extend(_env_faults(manifest, env, final))
    if faults:
        return None, faults
    values["strict_sandbox"] = values.get("strict_sandbox", False) or strict_sandbox
    binding = Binding(
        name=manifest.name,
        version=manifest.version,
        env=tuple(env),
        limits=final,
        ignore_errors=manifest.ignore_errors,
        init_timeout_s=_init_timeout_s(manifest, findings),
        path=manifest.path,
        line=manifest.line,
        **values,
    )
    return binding, []


def _variable(prop: Property) -> tuple[str, str]:
    name = prop.name[len(ENV_PREFIX) :]
    if not name or "=" in name or "\0" in name:
        raise _InvalidError(f"{prop.name!r} names no environment variable", "write env.NAME, without =")
    if "\0" in prop.value:
        raise _InvalidError(f"{prop.name} holds a NUL character, which no environment can")
    if any("\ud800" <= c <= "\udfff" for c in name + prop.value):
        raise _InvalidError(f"{prop.name} is not UTF-8")
    return name, prop.value


def _env_faults(manifest: Manifest, env: list[tuple[str, str]], limits: Limits) -> list[Fault]:
    size = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env)
    if size <= limits.env_bytes:
        return []
    return [
        Fault(
            f"the environment of env.NAME entries is {size} bytes, above envLimit {Unit.SIZE.format(limits.env_bytes)}",
            "shorten it, or raise envLimit",
            manifest.line,
        )
    ]


def _warn_unknown(manifest: Manifest, prop: Property, findings: Findings) -> None:
    known = [entry.key for entry in KEYS]
    findings.add(
        Severity.WARNING,
        f"metadata {prop.name} is unknown to bindings.wasm and has no effect",
        did_you_mean(prop.name, known) or "an environment variable for the guest is written env.NAME",
        path=manifest.path,
        line=prop.line,
        component=manifest.name,
    )


def _warn_unclear(manifest: Manifest, prop: Property, findings: Findings) -> None:
    if prop.value.strip().lower() not in _TRUTHY + _FALSY:
        message = f"{prop.name} {prop.shown} is read as false, as in Dapr"
        findings.add(
            Severity.WARNING,
            message,
            "write true or false",
            path=manifest.path,
            line=prop.line,
            component=manifest.name,
        )


def _init_timeout_s(manifest: Manifest, findings: Findings) -> float:
    """spec.initTimeout in seconds; 5 if it is absent, wrong or 0 (dapr pkg/runtime/processor)."""
    default = 5.0
    if not manifest.init_timeout:
        return default
    try:
        milliseconds = parse_duration_ms(manifest.init_timeout)
    except ValueError as error:
        findings.add(
            Severity.WARNING,
            f"initTimeout {manifest.init_timeout!r} is {error}; 5s is used, as in Dapr",
            "write a duration such as 30s",
            path=manifest.path,
            line=manifest.line,
            component=manifest.name,
        )
        return default
    return milliseconds / 1000 or default


def _plain(prop: Property) -> str:
    return prop.shown if prop.confidential else prop.value[:500]


def metadata_table(defaults: Limits, ceilings: Limits) -> str:
    """All metadata keys as a Markdown table: key, default, values, ceiling, meaning."""
    lines = ["| key | default | values | ceiling | meaning |", "|---|---|---|---|---|"]
    units = {Unit.DURATION: "duration", Unit.SIZE: "size", Unit.COUNT: "number"}
    for entry in KEYS:
        default, values, ceiling = entry.default, entry.values, ""
        if entry.limit is not None:
            row = entry.limit
            default = f"`{row.unit.format(getattr(defaults, row.field))}`"
            values = f"{units[row.unit]}, from {row.unit.format(row.low)}"
            ceiling = f"`{row.unit.format(getattr(ceilings, row.field))}`"
        lines.append(f"| `{entry.key}` | {default} | {values} | {ceiling} | {entry.meaning} |")
    lines.append(
        "| `env.NAME` | none | text | | environment variable NAME of the guest; a request cannot override it |"
    )
    return "\n".join(lines) + "\n"

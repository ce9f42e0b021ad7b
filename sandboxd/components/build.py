"""Builds a Binding from the properties of a component.

Source: components-contrib common/wasm/wasm.go, dapr pkg/runtime/processor/binding and pkg/runtime/processor.
"""

from dataclasses import dataclass, replace
from typing import Any

from sandboxd.components.binding import Binding
from sandboxd.components.manifest import Manifest
from sandboxd.components.metadata import ENV_PREFIX, KEYS, KEYS_BY_NAME, KeyContext, PatternCheck
from sandboxd.components.mounts import MountPolicy
from sandboxd.components.properties import FALSY, TRUTHY, InvalidError, Property
from sandboxd.files.problems import Findings, Severity, did_you_mean
from sandboxd.limits import Limits
from sandboxd.limits.units import Unit, parse_duration_ms, parse_duration_ns


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why a component cannot become a binding."""

    message: str
    remedy: str
    line: int


def serves_output(properties: list[Property]) -> bool:
    """Return whether `direction` includes `output`, or is absent."""
    for prop in properties:
        if prop.name.lower() == "direction":
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
    mounts: MountPolicy,
    findings: Findings,
) -> tuple[Binding | None, list[Fault]]:
    """Return the binding that a component configures, or None and every reason why there is none.

    Parameters:
        manifest: the component.
        properties: its metadata with all references filled in; no two names differ only in case.
        defaults: the limits that it does not set.
        ceilings: the highest limits that it may set.
        strict_sandbox: run it with strictSandbox even if its metadata does not say so.
        check_pattern: raises ValueError if its argument is not an egress pattern; None accepts every text.
        mounts: which folders it may mount.
        findings: collects the warnings.
    """
    context = KeyContext(
        ceilings=ceilings,
        check_pattern=check_pattern,
        folder=manifest.path.parent,
        mounts=mounts,
    )
    faults: list[Fault] = []
    values: dict[str, Any] = {}
    limits: dict[str, int] = {}
    env: list[tuple[str, str]] = []
    warm_line = url_line = manifest.line
    if not any(prop.name.lower() == "url" for prop in properties):
        properties = [Property(name="url", value="", line=manifest.line, confidential=False), *properties]
    for prop in properties:
        lower = prop.name.lower()
        entry = KEYS_BY_NAME.get(lower)
        try:
            if lower.startswith(ENV_PREFIX):
                env.append(_variable(prop))
            elif entry is None:
                _warn_unknown(manifest, prop, findings)
            elif not entry.limit:
                values.update(entry.read(prop, context))
            else:
                limits.update(entry.read(prop, context))
        except InvalidError as error:
            faults.append(Fault(str(error), error.remedy, prop.line))
        if lower == "strictsandbox":
            _warn_not_boolean(manifest, prop, findings)
        if lower == "warmstart":
            warm_line = prop.line
        if lower == "url":
            url_line = prop.line
    final = replace(defaults, **limits)
    faults.extend(_env_faults(manifest, env, final))
    if values.get("tmp") is not None and any(m.target == values["tmp"].target for m in values.get("mounts", ())):
        faults.append(Fault(f"tmp and a mount have the target {values['tmp'].target}", "", manifest.line))
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
        url_line=url_line,
        **values,
    )
    if binding.warm_start and not binding.starts_warm(default=False):
        findings.add(
            Severity.WARNING,
            "warmStart has no effect, because the component has a writable mount",
            "set readOnly: true for all mounts, or remove warmStart",
            path=manifest.path,
            line=warm_line,
            component=manifest.name,
        )
    return binding, []


def _variable(prop: Property) -> tuple[str, str]:
    name = prop.name[len(ENV_PREFIX) :]
    if not name or "=" in name or "\0" in name:
        raise InvalidError(f"{prop.name!r} does not name an environment variable", "write env.NAME, without =")
    if "\0" in prop.value:
        raise InvalidError(f"{prop.name} contains a NUL character, which an environment variable cannot have")
    if any("\ud800" <= c <= "\udfff" for c in name + prop.value):
        raise InvalidError(f"{prop.name} is not UTF-8")
    return name, prop.value


def _env_faults(manifest: Manifest, env: list[tuple[str, str]], limits: Limits) -> list[Fault]:
    size = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env)
    if size <= limits.env_bytes:
        return []
    return [
        Fault(
            f"the env.NAME entries have {size} bytes together, above envLimit {Unit.SIZE.format(limits.env_bytes)}",
            "shorten them, or raise envLimit",
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


def _warn_not_boolean(manifest: Manifest, prop: Property, findings: Findings) -> None:
    if prop.value.strip().lower() not in TRUTHY + FALSY:
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
    """Return spec.initTimeout in seconds; 5 if it is absent or invalid (dapr pkg/runtime/processor)."""
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
    return milliseconds / 1000


def init_timeout_passed(text: str) -> bool:
    """Return whether an initTimeout is over at once: it is negative, or less than a millisecond."""
    try:
        return parse_duration_ns(text.removeprefix("-")) < 1_000_000 or text.startswith("-")
    except ValueError:
        return False

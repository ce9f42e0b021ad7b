"""Reads Resiliency resources: the policies of bindings, as targets and as defaults.

Source: dapr pkg/resiliency/resiliency.go and pkg/apis/resiliency/v1alpha1/types.go; dapr/kit config/decode.go for
durations. daprd logs a resource that it cannot read and goes on without it. Here it is an error if a binding would use
a policy that cannot be read. Otherwise an operator would find out only under load that a retry does not exist.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from sandboxd.components import fields
from sandboxd.components.documents import Resource
from sandboxd.components.fields import ManifestError
from sandboxd.files import yamltext
from sandboxd.files.problems import Findings, Severity, did_you_mean
from sandboxd.files.yamltext import Scalar
from sandboxd.limits.units import format_duration_ms, parse_duration_ns
from sandboxd.resiliency import BreakerSettings, Policy, Retry, Trip, TripError

KIND: Final = "Resiliency"

_LEVELS: Final = ("BindingComponentOutbound", "ComponentOutbound", "Component", "")
"""The levels of default policies for an output binding, such as `Default{level}TimeoutPolicy`. The first one counts."""
_MAX_REQUESTS: Final = (1 << 32) - 1
_HTTP_CODES: Final = (100, 599)
_GRPC_CODES: Final = (0, 16)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Broken:
    """A policy that cannot be read."""

    message: str
    path: Path
    line: int


class _Kind(Generic[_T]):
    """The policies of one kind, by name.

    Parameters:
        key: the kind's key in `spec.policies`.
        target_key: its key in a target.
        default: its word in the names of default policies.
        read: reads the policy of a name from its node.
    """

    def __init__(self, key: str, target_key: str, default: str, read: Callable[[str, yamltext.Node], _T]) -> None:
        self.key = key
        self.target_key = target_key
        self.default = default
        self.read = read
        self.named: dict[str, _T | _Broken] = {}

    def default_name(self) -> str:
        """Return the name of the default policy that counts; empty if there is none."""
        names = (f"Default{level}{self.default}Policy" for level in _LEVELS)
        return next((name for name in names if name in self.named), "")


@dataclass(frozen=True, slots=True)
class _Target:
    """The outbound policies of a component."""

    names: Mapping[str, tuple[str, int]]
    """The name of each policy and its line, by `_Kind.target_key`."""
    path: Path


class Resiliency:
    """The policies and targets of all Resiliency resources. Of two with the same name, the later one counts.

    Parameters:
        app_id: the id that `scopes` must list.
        findings: collects the problems.
    """

    def __init__(self, app_id: str, findings: Findings) -> None:
        self._app_id = app_id
        self._findings = findings
        self._timeouts = _Kind("timeouts", "timeout", "Timeout", _timeout)
        self._retries = _Kind("retries", "retry", "Retry", self._retry)
        self._breakers = _Kind("circuitBreakers", "circuitBreaker", "CircuitBreaker", _breaker)
        self._targets: dict[str, _Target] = {}
        self._reported: set[_Broken] = set()
        self._path = Path()

    def __repr__(self) -> str:
        return f"<Resiliency of {len(self._targets)} targets>"

    def add(self, resource: Resource) -> None:
        """Read one resource. Its faults become problems."""
        self._path = resource.path
        try:
            self._add(resource)
        except ManifestError as error:
            self._findings.add(
                Severity.ERROR,
                f"Could not parse resiliency file {resource.path.name}: {error.message}",
                "repair it, or remove it from the folder",
                path=resource.path,
                line=error.line,
            )

    def _add(self, resource: Resource) -> None:
        scopes = [fields.string(node, "scopes") for node in fields.sequence(resource.root, "scopes")]
        name = fields.text(fields.mapping(resource.root, "metadata"), "name")
        if scopes and self._app_id not in scopes:
            text = f"Resiliency {name} is skipped: its scopes do not list the app id {self._app_id}"
            self._findings.add(Severity.NOTE, text, path=resource.path, line=resource.line)
            return
        spec = fields.mapping(resource.root, "spec")
        self._known(spec, "spec", ("policies", "targets"))
        policies, targets = fields.mapping(spec, "policies"), fields.mapping(spec, "targets")
        kinds = (self._timeouts, self._retries, self._breakers)
        self._known(policies, "policies", [kind.key for kind in kinds])
        for kind in kinds:
            for key, node in fields.mapping(policies, kind.key).entries.items():
                self._read_policy(kind, key, node)
        self._known(targets, "targets", ("apps", "actors", "components"))
        for other in ("apps", "actors"):
            if fields.mapping(targets, other).entries:
                text = f"targets.{other} of Resiliency {name} is for daprd: sandboxd serves output bindings only"
                self._findings.add(Severity.NOTE, text, path=resource.path, line=resource.line)
        components = fields.mapping(targets, "components")
        for component in components.entries:
            self._targets[component] = self._target(components, component)

    def _read_policy(self, kind: _Kind[Any], name: str, node: yamltext.Node) -> None:
        try:
            kind.named[name] = kind.read(name, node)
        except (ManifestError, ValueError) as error:
            line = error.line if isinstance(error, ManifestError) else node.line
            kind.named[name] = _Broken(f"invalid {kind.target_key} {name!r}: {error}", self._path, line)

    def _target(self, components: yamltext.Mapping, name: str) -> _Target:
        entry = fields.mapping(components, name)
        self._known(entry, f"components.{name}", ("inbound", "outbound"))
        outbound = fields.mapping(entry, "outbound")
        keys = (self._timeouts.target_key, self._retries.target_key, self._breakers.target_key)
        self._known(outbound, f"components.{name}.outbound", keys)
        names = {}
        for key in keys:
            named = fields.text(outbound, key)
            if named:
                names[key] = (named, outbound.key_lines.get(key, outbound.line))
        return _Target(names, self._path)

    def _known(self, parent: yamltext.Mapping, where: str, keys: Sequence[str]) -> None:
        """Warn of unknown keys. daprd ignores them without a word."""
        lower = {key.lower() for key in keys}
        for key, line in parent.key_lines.items():
            if key.lower() not in lower:
                text = f"{key} is not a key of {where} and has no effect"
                self._findings.add(Severity.WARNING, text, did_you_mean(key, keys), path=self._path, line=line)

    def policy(self, component: str, limit_ms: int) -> Policy | None:
        """Return the policy of a binding; None if it has none. A policy that is missing or broken becomes an error.

        Parameters:
            component: its name.
            limit_ms: the binding's own `timeout`, in milliseconds.
        """
        target = self._targets.get(component)
        timeout = self._named(self._timeouts, component, target)
        retry = self._named(self._retries, component, target)
        breaker = self._named(self._breakers, component, target)
        if timeout and timeout >= limit_ms * 1_000_000:
            self._findings.add(
                Severity.WARNING,
                f"the timeout of its resiliency policy has no effect: the binding's own timeout of "
                f"{format_duration_ms(limit_ms)}, which covers all attempts together, is not longer",
                "raise the key timeout",
                path=Path() if target is None else target.path,
                component=component,
            )
        if not timeout and retry is None and breaker is None:
            return None
        return Policy(timeout_ns=timeout or 0, retry=retry, breaker=breaker)

    def _named(self, kind: _Kind[_T], component: str, target: _Target | None) -> _T | None:
        # A target without outbound policies takes no defaults either.
        name, line = (kind.default_name(), 0) if target is None else target.names.get(kind.target_key, ("", 0))
        if not name:
            return None
        found = kind.named.get(name)
        if found is None:
            assert target is not None
            self._findings.add(
                Severity.ERROR,
                f"components.{component}.outbound.{kind.target_key} names {name}, "
                f"which is not in spec.policies.{kind.key}",
                did_you_mean(name, kind.named),
                path=target.path,
                line=line,
                component=component,
            )
            return None
        if isinstance(found, _Broken):
            self._report(found, Severity.ERROR)
            return None
        return found

    def _report(self, broken: _Broken, severity: Severity) -> None:
        if broken not in self._reported:
            self._reported.add(broken)
            self._findings.add(
                severity,
                f"Could not read resiliency policy: {broken.message}",
                "repair it, or remove it",
                path=broken.path,
                line=broken.line,
            )

    def finish(self) -> None:
        """Report the broken policies that no binding uses. Call it after `policy` for every binding."""
        for kind in (self._timeouts, self._retries, self._breakers):
            for found in kind.named.values():
                if isinstance(found, _Broken):
                    self._report(found, Severity.WARNING)

    def _retry(self, name: str, node: yamltext.Node) -> Retry:
        entry = _entry(name, node)
        self._known(entry, f"retries.{name}", ("policy", "duration", "maxInterval", "maxRetries", "matching"))
        policy = fields.text(entry, "policy").lower()
        if policy not in ("", "constant", "exponential"):
            raise ManifestError(f"unexpected back off policy type: {policy}; constant and exponential exist", node.line)
        matching = fields.mapping(entry, "matching")
        self._known(matching, f"retries.{name}.matching", ("httpStatusCodes", "gRPCStatusCodes"))
        _check_codes(matching, "httpStatusCodes", *_HTTP_CODES)
        _check_codes(matching, "gRPCStatusCodes", *_GRPC_CODES)
        if matching.entries:
            text = f"retries.{name}.matching has no effect: failures of bindings have no status, as in daprd"
            self._findings.add(Severity.NOTE, text, path=self._path, line=matching.line)
        default = Retry()
        return Retry(
            exponential=policy == "exponential",
            duration_ns=_duration(entry, "duration", default.duration_ns),
            max_interval_ns=_duration(entry, "maxInterval", default.max_interval_ns),
            max_retries=_integer(entry, "maxRetries", default.max_retries),
        )


def _entry(name: str, node: yamltext.Node) -> yamltext.Mapping:
    if not isinstance(node, yamltext.Mapping):
        raise ManifestError(f"{name} is {yamltext.describe(node)} where a mapping is expected", node.line)
    return node


def _timeout(name: str, node: yamltext.Node) -> int:
    return _nanoseconds(fields.string(node, name))


def _breaker(name: str, node: yamltext.Node) -> BreakerSettings:
    entry = _entry(name, node)
    for key, line in entry.key_lines.items():
        if key.lower() not in ("maxrequests", "interval", "timeout", "trip"):
            raise ManifestError(f"{key} is not a key of a circuit breaker", line)
    most = _integer(entry, "maxRequests", 1)
    if not 0 <= most <= _MAX_REQUESTS:
        raise ManifestError(f"maxRequests {most} is not from 0 to {_MAX_REQUESTS}", entry.line)
    trip = fields.text(entry, "trip")
    try:
        compiled = Trip(trip) if trip else None
    except TripError as error:
        raise ManifestError(f"trip {trip!r}: {error}", entry.key_lines.get("trip", entry.line)) from None
    default = BreakerSettings(name=name)
    return BreakerSettings(
        name=name,
        max_requests=most or default.max_requests,
        interval_ns=_duration(entry, "interval", default.interval_ns),
        timeout_ns=_duration(entry, "timeout", default.timeout_ns) or default.timeout_ns,
        trip=compiled,
    )


def _duration(entry: yamltext.Mapping, key: str, default: int) -> int:
    text = fields.text(entry, key)
    if not text:
        return default
    try:
        return _nanoseconds(text)
    except ValueError as error:
        raise ManifestError(f"{key} {text!r} is {error}", entry.key_lines.get(key, entry.line)) from None


def _nanoseconds(text: str) -> int:
    """Return the nanoseconds of a Go duration or of a number of milliseconds.

    Raises:
        ValueError: the text is neither, or is negative.
    """
    if re.fullmatch(r"[0-9]{1,15}", text):
        return int(text) * 1_000_000
    return parse_duration_ns(text)


def _integer(entry: yamltext.Mapping, key: str, default: int) -> int:
    node = fields.field(entry, key)
    if node is None:
        return default
    if not isinstance(node, Scalar) or type(node.value) is not int:
        raise ManifestError(f"{key} is {yamltext.describe(node)} where a whole number is expected", node.line)
    return node.value


def _check_codes(matching: yamltext.Mapping, key: str, low: int, high: int) -> None:
    """Raise ManifestError unless a field is a list of statuses and ranges, such as `429,500-599`."""
    text = fields.text(matching, key)
    for part in text.split(","):
        first, dash, last = part.partition("-")
        for code in (first, last) if dash else (first,):
            if part and not (re.fullmatch(r"[0-9]{1,9}", code) and low <= int(code) <= high):
                raise ManifestError(f"{key}: {part!r} is not a status or range of statuses from {low} to {high}", 0)

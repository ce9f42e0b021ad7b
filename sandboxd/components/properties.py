"""The properties of a component: spec.metadata with envRef, secretKeyRef and templates filled in.

Source: dapr pkg/runtime/processor/secret/secret.go (ProcessResource, isEnvVarAllowed), pkg/runtime/meta/meta.go
(convertItemsToProps), kit metadata/utils.go (resolveAliases).
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sandboxd.components.manifest import Item, Manifest
from sandboxd.components.secrets import SecretError, SecretStore, is_denied
from sandboxd.files.problems import Findings, Severity

TRUTHY: Final = ("y", "yes", "true", "t", "on", "1")
"""The values that Dapr reads as true, in lower case (kit utils, IsTruthy)."""
FALSY: Final = ("n", "no", "false", "f", "off", "0", "")
"""The values that plainly mean false. Dapr reads every value that is not true as false."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The sources of the values of references and templates."""

    app_id: str
    namespace: str
    pod_name: str
    environ: Mapping[str, str]
    stores: Mapping[str, SecretStore]
    """The secret stores that have loaded, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Property:
    """One entry of spec.metadata with its final value."""

    name: str
    value: str
    line: int
    confidential: bool
    """The value came from a secret store or the environment, so no message may show it."""

    @property
    def shown(self) -> str:
        """The value for messages: quoted and shortened, or a placeholder if it is confidential."""
        if self.confidential:
            return "(from a secret)"
        return repr(self.value if len(self.value) <= 200 else self.value[:200] + "...")


class InvalidError(ValueError):
    """A value does not fit its key.

    Parameters:
        message: the fault.
        remedy: what to write instead; empty if the message says it.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UnresolvedError(Exception):
    """A reference or template cannot be filled in. `line` is the line of the item."""

    def __init__(self, message: str, remedy: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.line = line


def read_properties(manifest: Manifest, context: Context, findings: Findings) -> list[Property]:
    """Return a component's properties in order. Of several items with the same exact name, the last one counts.

    Raises:
        UnresolvedError: a secret store is not loaded (Dapr would wait for it for ever), or {podName} is not known.
    """
    found: dict[str, Property] = {}
    for item in manifest.items:
        if item.name in found:
            _warn(findings, manifest, item, f"metadata {item.name} is set twice; the last one counts")
            del found[item.name]
        value, confidential = _value(item, manifest, context, findings)
        prop = Property(name=item.name, value=value, line=item.line, confidential=confidential)
        found[item.name] = replace(prop, value=_fill(prop, context))
    return list(found.values())


def check_unique(properties: list[Property]) -> None:
    """Check that no two names are the same key. Case does not matter, except in the NAME of `env.NAME`.

    Raises:
        UnresolvedError: two names that differ only in case are the same key.
    """
    seen: set[str] = set()
    for prop in properties:
        lower = prop.name.lower()
        key = "env." + prop.name[4:] if lower.startswith("env.") else lower
        if key in seen:
            message = f"failed to resolve aliases: key {lower} is duplicate in the metadata"
            raise UnresolvedError(message, "metadata keys are the same in any case; leave one of them", prop.line)
        seen.add(key)


def _warn(findings: Findings, manifest: Manifest, item: Item, message: str, remedy: str = "") -> None:
    findings.add(Severity.WARNING, message, remedy, path=manifest.path, line=item.line, component=manifest.name)


def _value(item: Item, manifest: Manifest, context: Context, findings: Findings) -> tuple[str, bool]:
    """Return the value, and whether it is confidential."""
    if item.value is None and item.env_ref:
        return _from_environment(item, manifest, context, findings), True
    value = item.value or ""
    if not item.secret_name:
        return value, False
    secret = _from_store(item, manifest, context, findings)
    return (secret, True) if secret else (value, False)


def _from_environment(item: Item, manifest: Manifest, context: Context, findings: Findings) -> str:
    variable = item.env_ref
    if not is_env_allowed(variable, context.environ):
        _warn(
            findings,
            manifest,
            item,
            f"Component {manifest.name} references an env variable that isn't allowed: {variable}",
            f"{item.name} is empty; name another variable",
        )
        return ""
    if variable not in context.environ:
        message = f"Component {manifest.name} references an env variable that isn't set: {variable}"
        _warn(findings, manifest, item, message, f"{item.name} is empty; set {variable}")
        return ""
    return context.environ[variable]


def is_env_allowed(variable: str, environ: Mapping[str, str]) -> bool:
    """Return whether envRef may name this variable: it is not Dapr's own, and DAPR_ENV_KEYS, if set, lists it."""
    if not variable or " " in variable or is_denied(variable):
        return False
    allowed = environ.get("DAPR_ENV_KEYS", "")
    return not allowed or variable.upper() in allowed.split(" ")


def _from_store(item: Item, manifest: Manifest, context: Context, findings: Findings) -> str:
    store = context.stores.get(manifest.secret_store)
    if store is None:
        name = manifest.secret_store
        remedy = (
            f"add a component {name} of type secretstores.local.file or secretstores.local.env to the folder"
            if name
            else "name a secret store in auth.secretStore"
        )
        message = f"Component {manifest.name} references a secret store that isn't loaded: {name}"
        raise UnresolvedError(message, remedy, item.line)
    key = item.secret_key or item.secret_name
    try:
        value = store.get(item.secret_name).get(key, "")
    except SecretError as error:
        _warn(findings, manifest, item, f"Error getting secret: {error}", f"{item.name} keeps its value")
        return ""
    if not value:
        message = f"secret {item.secret_name} has no value under {key}"
        _warn(findings, manifest, item, message, f"{item.name} keeps its value")
    return value


def _fill(prop: Property, context: Context) -> str:
    """Return the value with its templates filled in."""
    head, *rest = prop.value.split("{uuid}")
    value = head + "".join(f"{uuid.uuid4()}{part}" for part in rest)
    if "{podName}" in value:
        if not context.pod_name:
            raise UnresolvedError(
                f"failed to parse metadata: property {prop.name} refers to {{podName}} but podName is not set",
                "set the variable POD_NAME",
                prop.line,
            )
        value = value.replace("{podName}", context.pod_name)
    value = value.replace("{namespace}", f"{context.namespace}.{context.app_id}")
    return value.replace("{appID}", context.app_id)

"""From spec.metadata as written to names and values: envRef, secretKeyRef, templates.

Source: dapr pkg/runtime/processor/secret/secret.go (ProcessResource, isEnvVarAllowed), pkg/runtime/meta/meta.go
(convertItemsToProps), kit metadata/utils.go (resolveAliases).
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sandboxd.components.manifest import Findings, Item, Manifest
from sandboxd.components.secrets import SecretError, SecretStore, is_denied
from sandboxd.problems import Severity


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What references and templates are resolved with."""

    app_id: str
    namespace: str
    pod_name: str
    environ: Mapping[str, str]
    stores: Mapping[str, SecretStore]
    """Secret stores that loaded, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Property:
    """One resolved entry of spec.metadata."""

    name: str
    value: str
    line: int
    confidential: bool
    """The value came from a secret store or the environment: it must not stand in any message."""

    @property
    def shown(self) -> str:
        """The value for messages: quoted and shortened, or a word in its place."""
        if self.confidential:
            return "(from a secret)"
        return repr(self.value if len(self.value) <= 200 else self.value[:200] + "...")


class UnresolvedError(Exception):
    """The component cannot be initialised. `line` is the item's."""

    def __init__(self, message: str, remedy: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.line = line


def resolve(manifest: Manifest, around: Surroundings, findings: Findings) -> list[Property]:
    """The properties of a component, in order, of each exact name the last one.

    Raises:
        UnresolvedError: a secret store is not loaded (Dapr would wait for it for ever), or {podName} is not known.
    """
    found: dict[str, Property] = {}
    for item in manifest.items:
        if item.name in found:
            _warn(findings, manifest, item, f"metadata {item.name} is set twice; the last one counts")
            del found[item.name]
        value, confidential = _value(item, manifest, around, findings)
        prop = Property(name=item.name, value=value, line=item.line, confidential=confidential)
        found[item.name] = replace(prop, value=_fill(prop, around))
    return list(found.values())


def check_unique(properties: list[Property]) -> None:
    """Keys are the same in any case; `env.NAME` differs by its NAME.

    Raises:
        UnresolvedError: two names of different case mean one key.
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


def _value(item: Item, manifest: Manifest, around: Surroundings, findings: Findings) -> tuple[str, bool]:
    """(value, whether it is confidential)."""
    if item.value is None and item.env_ref:
        return _from_environment(item, manifest, around, findings), True
    value = item.value or ""
    if not item.secret_name:
        return value, False
    secret = _from_store(item, manifest, around, findings)
    return (secret, True) if secret else (value, False)


def _from_environment(item: Item, manifest: Manifest, around: Surroundings, findings: Findings) -> str:
    variable = item.env_ref
    if not is_env_allowed(variable, around.environ):
        _warn(
            findings,
            manifest,
            item,
            f"Component {manifest.name} references an env variable that isn't allowed: {variable}",
            f"{item.name} is empty; name another variable",
        )
        return ""
    if variable not in around.environ:
        message = f"Component {manifest.name} references an env variable that isn't set: {variable}"
        _warn(findings, manifest, item, message, f"{item.name} is empty; set {variable}")
        return ""
    return around.environ[variable]


def is_env_allowed(variable: str, environ: Mapping[str, str]) -> bool:
    """Whether envRef may name this variable: not Dapr's own, and in DAPR_ENV_KEYS where that lists any."""
    if not variable or " " in variable or is_denied(variable):
        return False
    allowed = environ.get("DAPR_ENV_KEYS", "")
    return not allowed or variable.upper() in allowed.split(" ")


def _from_store(item: Item, manifest: Manifest, around: Surroundings, findings: Findings) -> str:
    store = around.stores.get(manifest.secret_store)
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


def _fill(prop: Property, around: Surroundings) -> str:
    """The value with its templates filled in."""
    head, *rest = prop.value.split("{uuid}")
    value = head + "".join(f"{uuid.uuid4()}{part}" for part in rest)
    if "{podName}" in value:
        if not around.pod_name:
            raise UnresolvedError(
                f"failed to parse metadata: property {prop.name} refers to {{podName}} but podName is not set",
                "set the variable POD_NAME",
                prop.line,
            )
        value = value.replace("{podName}", around.pod_name)
    value = value.replace("{namespace}", f"{around.namespace}.{around.app_id}")
    return value.replace("{appID}", around.app_id)

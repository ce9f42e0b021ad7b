"""The JSON Schema of component files, made from the table of metadata keys. Editors complete and check files with it.

It describes components of the type bindings.wasm, and accepts all of other types. A component that the schema refuses
is not served. The reverse does not hold: a schema knows neither the operator's ceilings nor secrets; `sandboxd check`
does. In one respect the schema is stricter than the server: it finds the fields of a component only in their own case,
while Dapr finds them in any case (`Spec:`).
"""

import re
from typing import Any, Final

from sandboxd.components.documents import API_VERSION
from sandboxd.components.loader import INITIAL_VERSIONS, WASM_TYPE
from sandboxd.components.metadata import ENV_PREFIX, KEYS, MetadataKey
from sandboxd.config.schema import SCHEMA_DRAFT
from sandboxd.limits import Limits
from sandboxd.limits.about import About
from sandboxd.limits.units import Unit

_TEMPLATE: Final = {"type": "string", "pattern": "\\{"}
"""A value with a template such as `{appID}` is known only when it is resolved."""


def component_schema() -> dict[str, Any]:
    """Return the JSON Schema of one document of a component file."""
    spec_type = {"type": "string", "description": f"{WASM_TYPE}, or a type that is left to daprd"}
    return {
        "$schema": SCHEMA_DRAFT,
        "title": "Dapr component of the type bindings.wasm",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": "Component"},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {
                        "description": "the binding's name: callers POST /v1.0/bindings/NAME",
                        "not": {"type": "string", "pattern": "^$|^\\.\\.?$|[/%]"},
                    },
                    "namespace": {"description": "components of other namespaces than the server's are skipped"},
                },
            },
            "spec": {"type": "object", "required": ["type"], "properties": {"type": spec_type}},
            "auth": {"type": ["object", "null"], "properties": {"secretStore": {"description": "for secretKeyRef"}}},
            "scopes": {"description": "app ids that load the component; absent = all", "type": ["array", "null"]},
        },
        "if": {"properties": {"spec": {"properties": {"type": {"pattern": _any_case(WASM_TYPE)}}}}},
        "then": {"properties": {"spec": _wasm_spec()}},
    }


def _wasm_spec() -> dict[str, Any]:
    versions = "|".join(INITIAL_VERSIONS).replace("v", "[vV]")
    return {
        "required": ["metadata"],
        "properties": {
            "version": {"description": "v1", "type": ["string", "null"], "pattern": f"^({versions})$"},
            "ignoreErrors": {
                "description": "serve the others if this one cannot be loaded",
                "type": ["boolean", "null"],
            },
            "initTimeout": {"description": "how long the server's start waits for the guest; default 5s"},
            "metadata": {
                "type": "array",
                "contains": {
                    "type": "object",
                    "properties": {"name": {"pattern": _any_case("url")}},
                    "required": ["name"],
                },
                "items": {
                    "type": "object",
                    "properties": {
                        "name": {"anyOf": [{"enum": [entry.key for entry in KEYS]}, {}]},
                        "value": {},
                        "envRef": {"description": "take the value from this variable of the server"},
                        "secretKeyRef": {
                            "description": "take the value from the secret store that auth.secretStore names",
                            "type": ["object", "null"],
                            "properties": {"name": {}, "key": {}},
                        },
                    },
                    "allOf": [_rule(entry) for entry in KEYS],
                },
                "description": f"settings of the binding; {ENV_PREFIX}NAME is a variable of the guest",
            },
        },
    }


def _any_case(word: str) -> str:
    """Return a pattern for a word in any case, for which JSON Schema has no flag."""
    return f"^{''.join(f'[{c.lower()}{c.upper()}]' if c.isalpha() else re.escape(c) for c in word)}$"


def _rule(entry: MetadataKey) -> dict[str, Any]:
    """Return the rule for the value of one key, whose name may be in any case."""
    return {
        "if": {"properties": {"name": {"type": "string", "pattern": _any_case(entry.key)}}, "required": ["name"]},
        "then": {"properties": {"value": {"description": _description(entry), **_value(entry)}}},
    }


def _description(entry: MetadataKey) -> str:
    default = entry.default
    if entry.limit:
        assert entry.number is not None
        default = f"`{entry.number.unit.format(getattr(Limits(), entry.limit))}`, unless sandboxd.yaml says otherwise"
    return f"{entry.meaning}; default: {default}" if default != "required" else f"{entry.meaning}; required"


def _value(entry: MetadataKey) -> dict[str, Any]:
    if entry.number is not None:
        return {"anyOf": [*_number(entry.number), _TEMPLATE, {"type": "null"}]}
    if entry.pattern:
        return {"anyOf": [{"type": "string", "pattern": f"^{entry.pattern}$"}, _TEMPLATE, {"type": "null"}]}
    return {}


def _number(about: About) -> list[dict[str, Any]]:
    # Dapr makes text of every value, so `64` and `"64"` are the same, and spaces around it do not count.
    written = {"type": "string", "pattern": rf"^\s*{about.unit.pattern}\s*$"}
    if about.unit is Unit.DURATION:
        return [written, {"const": 0}] if about.low == 0 else [written]
    return [written, {"type": "integer", "minimum": about.low, "maximum": about.high}]

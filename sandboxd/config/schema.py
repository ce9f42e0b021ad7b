"""The JSON Schema of sandboxd.yaml, made from the table of settings. Editors complete and check the file with it.

A file that the schema refuses is refused by `load`, too. The reverse does not hold: a schema knows neither the bounds
of a size written `64Ki` nor what must hold between two settings; `sandboxd check` does.
"""

from typing import Any, Final

from sandboxd.config.settings import CERTIFICATE_KEYS, Setting, is_computed, settings
from sandboxd.limits.about import About, Kind
from sandboxd.limits.units import Unit

SCHEMA_DRAFT: Final = "http://json-schema.org/draft-07/schema#"
"""The newest draft that the common YAML language servers know entirely."""

_PRINTABLE: Final = "^[^\\u0000-\\u001f\\u007f]*$"


def settings_schema() -> dict[str, Any]:
    """Return the schema of sandboxd.yaml."""
    root = _section("sandboxd.yaml: the settings of the server")
    for setting in settings():
        level = root
        for key in setting.path[:-1]:
            level = level["properties"].setdefault(key, _section(f"section `{key}`"))
        level["properties"][setting.path[-1]] = _setting(setting)
    return {"$schema": SCHEMA_DRAFT, "title": "sandboxd.yaml", **root}


def _section(description: str) -> dict[str, Any]:
    # A section whose settings are all commented out is null.
    return {
        "description": description,
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {},
    }


def _setting(setting: Setting) -> dict[str, Any]:
    about = setting.about
    schema: dict[str, Any] = {"description": f"{about.meaning} ({setting.variable})", **_value(about)}
    if about.optional:
        schema = {"description": schema.pop("description"), "anyOf": [schema, {"type": "null"}]}
    if about.default_text:
        schema["description"] += f"; default: {about.default_text}"
    elif not is_computed(setting):
        schema["default"] = setting.to_yaml(setting.default)
    return schema


def _value(about: About) -> dict[str, Any]:
    text = {"type": "string", "pattern": _PRINTABLE}
    match about.kind:
        case Kind.NUMBER:
            return number_schema(about)
        case Kind.FLAG:
            return {"type": "boolean"}
        case Kind.CHOICE:
            return {"enum": list(about.choices)}
        case Kind.TEXTS:
            return {"type": "array", "items": text}
        case Kind.CERTIFICATES:
            entry = {
                "type": "object",
                "additionalProperties": False,
                "required": list(CERTIFICATE_KEYS),
                "properties": dict.fromkeys(CERTIFICATE_KEYS, text),
            }
            return {"type": "array", "items": entry}
        case Kind.FOLDER:
            return {**text, "minLength": 1}
        case _:
            return text


def number_schema(about: About) -> dict[str, Any]:
    """Return the schema of a number as YAML has it: `16`, `64Ki`, `30s`.

    Parameters:
        about: of a setting of the kind NUMBER.
    """
    plain = {"type": "integer", "minimum": about.low, "maximum": about.high}
    if about.unit is Unit.COUNT:
        return plain
    written = {"type": "string", "pattern": f"^{about.unit.pattern}$"}
    if about.unit is Unit.SIZE:
        return {"anyOf": [written, plain]}
    # Of durations, only zero needs no unit.
    return {"anyOf": [written, {"const": 0}]} if about.low == 0 else written

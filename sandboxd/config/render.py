"""Writes settings: the YAML of `serve --print-config`, and the reference table of the documentation."""

from typing import Any

import yaml

from sandboxd.config.model import Config
from sandboxd.config.settings import Setting, is_computed, settings
from sandboxd.files.yamltext import plain_scalar
from sandboxd.limits.about import Kind
from sandboxd.limits.units import Unit


def render(config: Config) -> str:
    """Return a sandboxd.yaml with every setting, computed defaults included. `load` reads it back as an equal Config.

    The API token is left out; a password in egress.proxy is not.
    """
    tree: dict[str, Any] = {}
    for setting in settings():
        level = tree
        for key in setting.path[:-1]:
            level = level.setdefault(key, {})
        section = getattr(config, setting.section) if setting.section else config
        level[setting.path[-1]] = setting.to_yaml(getattr(section, setting.field))
    text = _dumped(tree, allow_unicode=True)
    # Some characters, such as one that reverses text, must not reach a terminal. Then all but ASCII is escaped.
    return text if text.replace("\n", "").isprintable() else _dumped(tree, allow_unicode=False)


def _dumped(tree: dict[str, Any], *, allow_unicode: bool) -> str:
    text: str = yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, width=1_000, default_flow_style=False
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes every text that is not one word, or that YAML reads as another type (`yes`). Never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = value.isascii() and value.isalnum() and isinstance(plain_scalar(value), str)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def reference_table() -> str:
    """Return all settings as a Markdown table: key, default, unit and range, variable, meaning."""
    lines = ["| key | default | values | variable | meaning |", "|---|---|---|---|---|"]
    for setting in settings():
        meaning = setting.about.meaning.replace("|", "\\|")
        lines.append(
            f"| `{setting.key}` | {_default(setting)} | {_values(setting)} | `{setting.variable}` | {meaning} |"
        )
    return "\n".join(lines) + "\n"


def _default(setting: Setting) -> str:
    if setting.about.default_text:
        return setting.about.default_text
    assert not is_computed(setting)
    value = setting.default
    match setting.about.kind:
        case Kind.NUMBER:
            return f"`{setting.about.unit.format(value)}`"
        case Kind.FLAG:
            return "`true`" if value else "`false`"
        case _ if not value:
            return "none"
        case _:
            return f"`{value}`"


_KINDS = {
    Kind.FLAG: "`true`, `false`",
    Kind.TEXT: "text",
    Kind.TEXTS: "list of texts",
    Kind.CERTIFICATES: "list",
    Kind.FOLDER: "path",
}
_UNITS = {Unit.DURATION: "duration", Unit.SIZE: "size", Unit.COUNT: "number"}


def _values(setting: Setting) -> str:
    about = setting.about
    if about.kind is Kind.NUMBER:
        return f"{_UNITS[about.unit]}, {about.unit.format(about.low)} to {about.unit.format(about.high)}"
    if about.kind is Kind.CHOICE:
        return ", ".join(f"`{choice}`" for choice in about.choices)
    return _KINDS[about.kind]

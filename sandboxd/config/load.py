"""Reads the settings. The command line wins over a variable, a variable over the file, the file over the default."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Final

from sandboxd.config.checks import contradictions
from sandboxd.config.model import Config, default_cache_folder, home
from sandboxd.config.settings import Setting, settings
from sandboxd.errors import ConfigError, one_line
from sandboxd.files.problems import Problem, Severity, did_you_mean
from sandboxd.files.textfile import FileTextError, read_text
from sandboxd.files.yamltext import Mapping as YamlMapping
from sandboxd.files.yamltext import Node, Scalar, YamlError, describe, parse

CONFIG_VARIABLE: Final = "SANDBOXD_CONFIG"
"""The variable that names sandboxd.yaml. It is not a setting."""
TOKEN_VARIABLE: Final = "DAPR_API_TOKEN"  # noqa: S105 - the name, not the token
MAX_FILE_BYTES: Final = 1024 * 1024
"""The longest sandboxd.yaml."""

# Kubernetes gives every pod variables of this form for a Service that is called sandboxd.
_KUBERNETES = re.compile(r"SANDBOXD_(SERVICE_(HOST|PORT(_.*)?)|PORT(_.*)?)")
_TOKEN_KEYS = ("apitoken", "api_token", "daprapitoken", "token")

Key = tuple[str, str]
"""(section, field) of a setting."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The place where a setting was made."""

    text: str
    """Begins messages: `variable SANDBOXD_POOL_WORKERS`, or empty for the file."""
    file: Path | None = None
    line: int = 0

    def problem(self, message: str, remedy: str = "") -> Problem:
        """Return an error at this place."""
        message = f"{self.text}: {message}" if self.text else message
        return Problem(severity=Severity.ERROR, message=message, remedy=remedy, file=self.file, line=self.line)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The settings that were read, and the problems found."""

    config: Config | None
    """None if `problems` holds an error."""
    fallback: Config
    """The settings, with the default for each wrong one. `sandboxd check` goes on with them; a server never does."""
    problems: tuple[Problem, ...]


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Config, tuple[Problem, ...]]:
    """Read the settings. Return them, and the warnings about texts that had no effect.

    Parameters:
        path: sandboxd.yaml; None if there is none.
        environ: the environment. SANDBOXD_ variables, DAPR_API_TOKEN, NAMESPACE, HOME and XDG_CACHE_HOME are read.
        overrides: the settings of the command line, by dotted key (`pool.workers`). A text is read like that of a
            variable; any other value has the setting's own type. None values are left out.

    Raises:
        ConfigError: a setting is wrong. The message names every problem with its place, cause and remedy.
    """
    reading = read(path, environ=environ, overrides=overrides)
    if reading.config is None:
        errors = [p for p in reading.problems if p.severity is Severity.ERROR]
        lines = [str(p) for p in errors[:-1]]
        last = errors[-1]
        lines.append(one_line(f"{last.place}: {last.severity}: {last.message}"))
        raise ConfigError("\n".join(lines), remedy=last.remedy)
    return reading.config, reading.problems


def read(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> Reading:
    """Read the settings as `load` does, but return errors among the problems. `sandboxd check` lists them."""
    reader = _Reader()
    if path is not None:
        reader.read_file(path)
    reader.read_variables(environ)
    reader.read_overrides(overrides or {})
    return reader.finish(environ)


class _Reader:
    def __init__(self) -> None:
        self._values: dict[Key, Any] = {}
        self._origins: dict[Key, Origin] = {}
        self._problems: list[Problem] = []
        self._tree = _tree()

    # the three sources --------------------------------------------------------------------------------------------

    def read_file(self, path: Path) -> None:
        try:
            document = parse(read_text(path, max_bytes=MAX_FILE_BYTES))
        except FileTextError as error:
            self._problems.append(Origin("", path).problem(f"cannot be read: {error}"))
            return
        except YamlError as error:
            self._problems.append(Origin("", path, error.line).problem(error.message))
            return
        for key, line in document.duplicates:
            self._problems.append(
                Origin("", path, line).problem(f"{key} is set twice in one mapping", "leave one of them")
            )
        if document.root is not None:
            self._walk(document.root, self._tree, (), path)

    def _walk(self, node: Node, tree: dict[str, Any], keys: tuple[str, ...], path: Path) -> None:
        if isinstance(node, Scalar) and node.value is None:
            return  # a section whose settings are all commented out
        if not isinstance(node, YamlMapping):
            name = ".".join(keys) or "the file"
            origin = Origin("", path, node.line)
            self._problems.append(origin.problem(f"{name} is {describe(node)}; it must be a mapping of settings"))
            return
        for key, value in node.entries.items():
            origin = Origin("", path, node.key_lines[key])
            known = tree.get(key)
            if known is None:
                self._unknown_key(key, keys, tree, origin)
            elif isinstance(known, Setting):
                self._set(known, origin, node=value)
            else:
                self._walk(value, known, (*keys, key), path)

    def _unknown_key(self, key: str, keys: tuple[str, ...], tree: dict[str, Any], origin: Origin) -> None:
        if key.lower() in _TOKEN_KEYS:
            remedy = "the API token comes from the variable DAPR_API_TOKEN only"
        else:
            remedy = did_you_mean(key, tree)
        self._problems.append(origin.problem(f"{'.'.join((*keys, key))} is not a setting", remedy))

    def read_variables(self, environ: Mapping[str, str]) -> None:
        by_name = {setting.variable: setting for setting in settings()}
        for name in sorted(environ):
            if not name.startswith("SANDBOXD_") or name == CONFIG_VARIABLE:
                continue
            setting = by_name.get(name)
            if setting is not None:
                self._set(setting, Origin(f"variable {name}"), text=environ[name])
            elif not _KUBERNETES.fullmatch(name):
                self._problems.append(
                    Problem(
                        severity=Severity.WARNING,
                        message=f"variable {name} is not a setting and has no effect",
                        remedy=did_you_mean(name, by_name),
                    )
                )

    def read_overrides(self, overrides: Mapping[str, Any]) -> None:
        by_key = {setting.key: setting for setting in settings()}
        for key, value in overrides.items():
            origin = Origin(f"command line, {key}")
            setting = by_key.get(key)
            if setting is None:
                self._problems.append(origin.problem("no such setting", did_you_mean(key, by_key)))
            elif isinstance(value, str):
                self._set(setting, origin, text=value)
            elif value is not None:
                self._set(setting, origin, text=_as_text(setting, value))

    def _set(self, setting: Setting, origin: Origin, *, node: Node | None = None, text: str = "") -> None:
        try:
            value = setting.from_text(text) if node is None else setting.from_node(node)
        except ValueError as error:
            message = str(error) if origin.text else f"{setting.key}: {error}"
            self._problems.append(origin.problem(message, f"{setting.key}: {setting.about.meaning}"))
            # Recorded, so that the default in its place is not reported as a second problem.
            self._origins[setting.section, setting.field] = origin
            return
        self._values[setting.section, setting.field] = value
        self._origins[setting.section, setting.field] = origin

    # the result ---------------------------------------------------------------------------------------------------

    def finish(self, environ: Mapping[str, str]) -> Reading:
        values = self._values
        folder = values.get(("cache", "folder"))
        if folder is None:
            values["cache", "folder"] = default_cache_folder(environ)
        elif folder.parts[:1] == ("~",):
            values["cache", "folder"] = home(environ).joinpath(*folder.parts[1:])
        values.setdefault(("", "namespace"), environ.get("NAMESPACE") or None)
        values["", "api_token"] = environ.get(TOKEN_VARIABLE) or None
        self._lower_unset()
        config = _build(values)
        for key, message, remedy in contradictions(config):
            origin = self._origins.get(key, Origin("settings"))
            self._problems.append(origin.problem(message, remedy))
        failed = any(problem.severity is Severity.ERROR for problem in self._problems)
        return Reading(config=None if failed else config, fallback=config, problems=tuple(self._problems))

    def _lower_unset(self) -> None:
        """Lower the defaults of ceilings to the engine's memory, and the defaults of limits to their ceilings."""
        config = _build(self._values)
        self._lower("ceilings", "memory_bytes", config.ceilings.memory_bytes, config.wasm.max_memory_bytes)
        config = _build(self._values)
        for limit in fields(config.limits):
            self._lower("limits", limit.name, getattr(config.limits, limit.name), getattr(config.ceilings, limit.name))

    def _lower(self, section: str, field: str, value: int, most: int) -> None:
        if (section, field) not in self._origins and value > most:
            self._values[section, field] = most


def _as_text(setting: Setting, value: Any) -> str:
    """Return a value from the command line as the text a variable would have."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        import json

        return json.dumps([str(item) for item in value])
    return setting.about.unit.format(value) if isinstance(value, int) else str(value)


def _build(values: Mapping[Key, Any]) -> Config:
    """Return a Config with the given values and defaults for the rest."""
    top = {field: value for (section, field), value in values.items() if not section}
    for field in fields(Config):
        inner = {name: value for (section, name), value in values.items() if section == field.name}
        if inner:
            base = field.default if field.default_factory is MISSING else field.default_factory()
            top[field.name] = _replaced(base, inner)
    return Config(**top)


def _replaced(base: Any, values: Mapping[str, Any]) -> Any:
    current = {field.name: getattr(base, field.name) for field in fields(base)}
    return type(base)(**{**current, **values})


def _tree() -> dict[str, Any]:
    """Return the settings by nested key."""
    tree: dict[str, Any] = {}
    for setting in settings():
        level = tree
        for key in setting.path[:-1]:
            level = level.setdefault(key, {})
        level[setting.path[-1]] = setting
    return tree

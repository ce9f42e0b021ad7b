"""Secret stores components may refer to: `secretstores.local.file` and `secretstores.local.env`.

Source: components-contrib secretstores/local/file/filestore.go and secretstores/local/env/envstore.go;
dapr pkg/runtime/processor/secret/secret.go for the variables nobody may read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from sandboxd.filetext import FileTextError, read_text
from sandboxd.yamltext import json_number

MAX_FILE_BYTES: Final = 1024 * 1024
"""Longest secrets file."""


class SecretError(Exception):
    """A store cannot be opened or does not hold a secret. The text never holds a secret's value."""


class SecretStore(Protocol):
    """Where secrets come from."""

    def get(self, name: str) -> Mapping[str, str]:
        """The keys and values of one secret.

        Raises:
            SecretError: there is none of that name, or it may not be read.
        """


def is_denied(variable: str) -> bool:
    """Whether a variable is never handed out, whoever asks: Dapr's own and the application's token."""
    upper = variable.upper()
    return upper == "APP_API_TOKEN" or upper.startswith("DAPR_")


class EnvStore:
    """secretstores.local.env: variables whose names begin with a prefix, which references leave out."""

    def __init__(self, environ: Mapping[str, str], prefix: str) -> None:
        self._environ = environ
        self._prefix = prefix

    def get(self, name: str) -> Mapping[str, str]:
        """The variable's value under its own name; empty if it is not set, as in Dapr."""
        variable = self._prefix + name
        if is_denied(variable):
            raise SecretError(f"Access to env var {name} is forbidden")
        return {name: self._environ.get(variable, "")}


class FileStore:
    """secretstores.local.file: a JSON object, nested names joined with a separator.

    Parameters:
        path: the file.
        separator: between the names of nested objects and the indices of lists, `:` unless configured.
        multi_valued: the first level's objects are secrets with several keys each, flattened only below that.

    Raises:
        SecretError: the file cannot be read, is no JSON object, or two of its values get the same name.
    """

    def __init__(self, path: Path, *, separator: str = ":", multi_valued: bool = False) -> None:
        content = _read(path)
        self._secrets: dict[str, dict[str, str]] = {}
        if not multi_valued:
            self._secrets = {name: {name: value} for name, value in _flatten(content, separator).items()}
            return
        for name, value in content.items():
            if isinstance(value, dict):
                self._secrets[name] = _flatten(value, separator)
            elif isinstance(value, str):
                self._secrets[name] = {name: value}
            # Dapr passes over every other kind of value here, so that asking for it is `not found`.

    def get(self, name: str) -> Mapping[str, str]:
        """The keys and values of one secret."""
        if name not in self._secrets:
            raise SecretError(f"secret {name} not found")
        return self._secrets[name]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path, max_bytes=MAX_FILE_BYTES), parse_constant=_no_constant)
    except FileTextError as error:
        raise SecretError(f"secrets file {path}: {error}") from None
    except RecursionError:
        raise SecretError(f"secrets file {path}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise SecretError(f"secrets file {path}, line {error.lineno}: not JSON: {error.msg}") from None
    except ValueError:
        # An endless number, or NaN. Its text may be part of a secret.
        raise SecretError(f"secrets file {path}: not JSON: a number out of range") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SecretError(f"secrets file {path}: not a JSON object")
    return content


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _flatten(content: dict[str, Any], separator: str) -> dict[str, str]:
    found: dict[str, str] = {}
    pending: list[tuple[str, Any]] = list(content.items())
    while pending:
        name, value = pending.pop()
        if isinstance(value, dict):
            pending.extend((f"{name}{separator}{key}", inner) for key, inner in value.items())
        elif isinstance(value, list):
            pending.extend((f"{name}{separator}{index}", inner) for index, inner in enumerate(value))
        elif name in found:
            # Dapr stops reading the file here without a word.
            raise SecretError(f"duplicate key {name}: a name with the separator in it meets a nested one")
        else:
            found[name] = _as_text(value)
    return found


def _as_text(value: Any) -> str:
    """A leaf as text. Dapr formats what is no string with %s, which yields `%!s(bool=true)`; here it is its JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return json_number(float(value))
    except (ValueError, OverflowError):
        raise SecretError("a number out of range") from None

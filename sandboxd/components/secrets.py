"""The secret stores to which components may refer: `secretstores.local.file` and `secretstores.local.env`.

Source: components-contrib secretstores/local/file/filestore.go and secretstores/local/env/envstore.go;
dapr pkg/runtime/processor/secret/secret.go for the variables that no component may read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from sandboxd.files.textfile import FileTextError, read_text
from sandboxd.gojson.floats import json_float

MAX_FILE_BYTES: Final = 1024 * 1024
"""The longest secrets file."""


class SecretError(Exception):
    """A store cannot be opened, or does not hold a secret. The message never holds a secret's value."""


class SecretStore(Protocol):
    """A source of secrets."""

    def get(self, name: str) -> Mapping[str, str]:
        """Return the keys and values of one secret.

        Raises:
            SecretError: no secret has that name, or it may not be read.
        """


def is_denied(variable: str) -> bool:
    """Return whether no component may read this variable: Dapr's own variables and the application's token."""
    upper = variable.upper()
    return upper == "APP_API_TOKEN" or upper.startswith("DAPR_")


class EnvStore:
    """secretstores.local.env: environment variables whose names begin with a prefix. References omit the prefix."""

    def __init__(self, environ: Mapping[str, str], prefix: str) -> None:
        self._environ = environ
        self._prefix = prefix

    def get(self, name: str) -> Mapping[str, str]:
        """Return the variable's value under the requested name; the value is empty if it is not set, as in Dapr."""
        variable = self._prefix + name
        if is_denied(variable):
            raise SecretError(f"Access to env var {name} is forbidden")
        return {name: self._environ.get(variable, "")}


class FileStore:
    """secretstores.local.file: a JSON object whose nested names are joined with a separator.

    Parameters:
        path: the file.
        separator: joins the names of nested objects and the indices of lists.
        multi_valued: each object of the first level is one secret with several keys; only its content is flattened.

    Raises:
        SecretError: the file cannot be read, is not a JSON object, or two of its values have the same joined name.
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
            # Dapr skips every other kind of value here, so a request for it says `not found`.

    def get(self, name: str) -> Mapping[str, str]:
        """Return the keys and values of one secret."""
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
        # A number with too many digits, or NaN. Its text may be part of a secret, so it is not shown.
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
            # Dapr silently stops reading the file here.
            raise SecretError(f"duplicate key {name}: a name that contains the separator equals a nested name")
        else:
            found[name] = _as_text(value)
    return found


def _as_text(value: Any) -> str:
    """Return a leaf as text. Dapr formats other types than strings with %s (`%!s(bool=true)`); here they are JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return json_float(float(value))
    except (ValueError, OverflowError):
        raise SecretError("a number out of range") from None

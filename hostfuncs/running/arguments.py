"""Check and convert the arguments that a script passes for a run. Each exception names the wrong argument."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from hostfuncs.files import FileSettings, Mount, Tmp, available
from hostfuncs.running.values import HttpRequest, Text
from hostfuncs.wasip2 import BytesSource, Request

_LONGEST_S: Final = 1e9
"""The longest timeout, in seconds. Python's locks accept about nine times as much."""

T = TypeVar("T")


def wrong_type(name: str, value: object, wanted: str) -> TypeError:
    """Return the error for an argument of another type.

    Parameters:
        name: the argument.
        value: what was given.
        wanted: the type that it should have, with its article.
    """
    return TypeError(f"{name} is of type {type(value).__name__}, not {wanted}")


def expect(name: str, value: object, kind: type[T]) -> T:
    """Return `value` if it is of type `kind`. Raises TypeError otherwise."""
    if not isinstance(value, kind):
        raise wrong_type(name, value, kind.__name__)
    return value


def encoded(name: str, text: Text) -> bytes:
    """Encode a text as UTF-8. Raises TypeError, or ValueError for a NUL character or half of a surrogate pair."""
    if isinstance(text, str):
        try:
            data = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: {text!r} cannot be encoded: {error.reason}") from None
    elif isinstance(text, bytes):
        data = text
    else:
        raise TypeError(f"{name}: {text!r} is neither str nor bytes")
    if b"\0" in data:
        raise ValueError(f"{name}: {text!r} contains a NUL character")
    return data


def encoded_texts(name: str, texts: Iterable[Text]) -> list[bytes]:
    """Encode a sequence of texts. Raises TypeError, also for a single text, and ValueError."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} is one text; write [{texts!r}]")
    if not isinstance(texts, Iterable):
        raise wrong_type(name, texts, "a sequence of texts")
    return [encoded(name, text) for text in texts]


def encoded_variables(env: Mapping[str, Text] | None) -> list[tuple[bytes, bytes]]:
    """Encode an environment. Raises TypeError, or ValueError for a name or value that no variable can have."""
    if env is None:
        return []
    if not isinstance(env, Mapping):
        raise wrong_type("env", env, "a mapping")
    variables = [(encoded("env", name), encoded("env", value)) for name, value in env.items()]
    for name, _ in variables:
        if not name or b"=" in name:
            raise ValueError(f"env: {name!r} cannot be the name of a variable")
    return variables


def file_settings(mounts: Iterable[Mount], tmp: Tmp | None) -> FileSettings:
    """Make the settings of a guest's folders.

    Raises:
        TypeError, ValueError: see `hostfuncs.files.FileSettings`.
        OSError: the source of a mount is not a folder that can be opened, or the system has no openat2.
    """
    if not isinstance(mounts, Iterable):
        raise wrong_type("mounts", mounts, "a sequence of Mount")
    found = tuple(expect("mounts", mount, Mount) for mount in mounts)
    if found and not available():
        raise OSError(errno.ENOSYS, "mounts need the system call openat2 (Linux 5.6), and a sandbox that allows it")
    for mount in found:
        os.close(mount.open())
    return FileSettings(mounts=found, tmp=None if tmp is None else expect("tmp", tmp, Tmp))


def data_of(name: str, data: bytes) -> bytes:
    """Return bytes, a bytearray or a memoryview as bytes. Raises TypeError for any other type."""
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise wrong_type(name, data, "bytes")


def deadline_after(timeout: float) -> int:
    """Return the CLOCK_MONOTONIC instant, in nanoseconds, that lies `timeout` seconds ahead.

    Raises TypeError, ValueError.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise wrong_type("timeout", timeout, "a number of seconds")
    if timeout != timeout or timeout > _LONGEST_S:
        raise ValueError(f"timeout is not a number up to {_LONGEST_S:.0f} seconds")
    return time.monotonic_ns() + int(max(timeout, 0) * 1e9)


def wasi_request(request: HttpRequest) -> Request:
    """Return the WASI request for a handler. Raises TypeError, ValueError."""
    scheme, separator, rest = expect("request.url", request.url, str).partition("://")
    authority, slash, path = rest.partition("/")
    if scheme.lower() not in ("http", "https") or not separator or not authority:
        raise ValueError(f"request.url is {request.url!r}; write for example http://localhost/path?query")
    return Request(
        method=expect("request.method", request.method, str),
        scheme=scheme.lower(),
        authority=authority,
        path=slash + path or "/",
        headers=tuple(
            (encoded("request.headers", name), encoded("request.headers", value)) for name, value in request.headers
        ),
        body=BytesSource(data_of("request.body", request.body)),
    )

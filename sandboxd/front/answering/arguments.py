"""The arguments and the environment of an invocation, from the metadata of its request.

`args` is Dapr's (components-contrib bindings/wasm/output.go, Invoke); `argv` and `env.NAME` are sandboxd's own.
"""

import json
from collections.abc import Mapping
from typing import Final

from sandboxd.front.ports import Served
from sandboxd.limits.keys import key_of, named

Args = tuple[bytes, ...]
Env = tuple[tuple[bytes, bytes], ...]

_TRACE_NAMES: Final = ("tracestate", "baggage")


class MetadataError(Exception):
    """The metadata asks for something impossible. The text is for the caller.

    Parameters:
        as_dapr: Dapr refuses it with the same words, as a failed invocation.
        limit: key of the limit that was exceeded; empty if none was.
    """

    def __init__(self, message: str, *, as_dapr: bool = False, limit: str = "") -> None:
        super().__init__(message)
        self.as_dapr = as_dapr
        self.limit = limit


def arguments(metadata: Mapping[str, str], served: Served) -> Args:
    """Return the arguments after argv[0]: `argv`, a JSON array of strings, or else `args`, split at every comma.

    Empty `args` mean no arguments; `,` means two empty ones.

    Raises:
        MetadataError: `argv` is not such an array, an argument contains NUL, or the arguments are too long.
    """
    if "argv" in metadata:
        args = tuple(text.encode() for text in _json_array(metadata["argv"]))
        size = sum(map(len, args)) + len(args)
        nul = any(b"\0" in arg for arg in args)
    else:
        plain = metadata.get("args")
        if not plain:
            return ()
        joined = plain.encode()
        args = tuple(joined.split(b","))
        size = len(joined) + 1  # every comma makes room for a terminating zero
        nul = b"\0" in joined
    if size > served.args_room:
        limit = named("args_bytes", served.binding.limits.args_bytes)
        text = f"the arguments take {size} bytes; with the program's name at most {limit} are allowed"
        raise MetadataError(text, limit=key_of("args_bytes"))
    if nul:
        # The words of wazero, internal/sys/sys.go, NewContext.
        raise MetadataError("args invalid: contains NUL character", as_dapr=True)
    return args


def _json_array(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) and _encodable(item) for item in found):
        raise MetadataError("metadata argv must be a JSON array of strings")
    return found


def _encodable(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def environment(metadata: Mapping[str, str] | None, served: Served, traceparent: bytes) -> Env:
    """Return the environment that a request adds: its `env.NAME` members and the trace context.

    Names that the operator set are left out silently: a caller must not be able to find out which they are.

    Parameters:
        traceparent: of the new span, for TRACEPARENT; empty sets none. It and the rest of the trace context are left
            out if the binding does not want them.

    Raises:
        MetadataError: a name is empty or contains `=`, a name or value contains NUL, or all of it is too long.
    """
    if served.traced and (not metadata or (len(metadata) == 1 and "args" in metadata)):
        return ((b"TRACEPARENT", traceparent),) if traceparent else ()
    fixed = served.fixed_env
    env: dict[bytes, bytes] = {}
    for key, text in (metadata or {}).items():
        if key.startswith("env."):
            name = key[4:]
            if not name or "=" in name or "\0" in name:
                raise MetadataError(f"metadata {json.dumps(key)}: a name must not be empty nor contain '=' or NUL")
            _put(env, name, key, text, fixed)
    if served.binding.traceparent:
        for key in _TRACE_NAMES:
            # After the caller's own: the headers take precedence.
            if metadata and metadata.get(key):
                _put(env, key.upper(), key, metadata[key], fixed)
        if traceparent and "TRACEPARENT" not in fixed:
            env[b"TRACEPARENT"] = traceparent
    size = sum(map(len, env)) + sum(map(len, env.values())) + 2 * len(env)
    if size > served.env_room:
        limit = named("env_bytes", served.binding.limits.env_bytes)
        text = f"the environment takes {size} bytes; with the configured one at most {limit} are allowed"
        raise MetadataError(text, limit=key_of("env_bytes"))
    return tuple(env.items())


def _put(env: dict[bytes, bytes], name: str, key: str, text: str, fixed: frozenset[str]) -> None:
    if "\0" in text:
        raise MetadataError(f"metadata {json.dumps(key)}: a value must not contain NUL")
    if name not in fixed:
        env[name.encode()] = text.encode()

"""CORS as go-chi/cors v1.2.2 does it with the options Dapr gives it (dapr pkg/api/http/server.go, useCors)."""

import re
from collections.abc import Sequence
from typing import Final

from sandboxd.front.ports import Headers, Message, Scope, Send

METHODS: Final = frozenset(("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

_not_in_a_name = re.compile(rb"[^A-Za-z0-9_.-]").sub


def _header(headers: Headers, wanted: bytes) -> bytes:
    for name, value in headers:
        if name == wanted:
            return value
    return b""


def _canonical(name: bytes) -> bytes:
    return b"-".join(part.capitalize() for part in name.split(b"-"))


class Cors:
    """The CORS headers of one server.

    Parameters:
        origins: allowed origins; `*` allows all, and one `*` within an origin stands for any text.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        lowered = [origin.strip().lower().encode() for origin in origins]
        self._all = b"*" in lowered
        self._plain = frozenset(origin for origin in lowered if b"*" not in origin)
        self._wild = [tuple(origin.split(b"*", 1)) for origin in lowered if b"*" in origin]

    def __repr__(self) -> str:
        return f"<Cors {'*' if self._all else len(self._plain) + len(self._wild)}>"

    def _allows(self, origin: bytes) -> bool:
        if self._all:
            return True
        origin = origin.lower()
        return origin in self._plain or any(
            len(origin) >= len(start) + len(end) and origin.startswith(start) and origin.endswith(end)
            for start, end in self._wild
        )

    def preflight(self, scope: Scope) -> Headers | None:
        """Return the headers of the empty 200 for a preflight; None if the request is not a preflight."""
        headers: Headers = scope["headers"]
        method = _header(headers, b"access-control-request-method")
        if scope["method"] != "OPTIONS" or not method:
            return None
        out = [
            (b"vary", b"Origin"),
            (b"vary", b"Access-Control-Request-Method"),
            (b"vary", b"Access-Control-Request-Headers"),
            (b"content-length", b"0"),
        ]
        origin = _header(headers, b"origin")
        if origin and self._allows(origin) and method.decode("latin-1").upper() in METHODS:
            out.append((b"access-control-allow-origin", b"*" if self._all else origin))
            out.append((b"access-control-allow-methods", method.upper()))
            asked = re.split(rb"[ ,]", _header(headers, b"access-control-request-headers"))
            names = [_canonical(name) for name in (_not_in_a_name(b"", item) for item in asked) if name]
            if names:
                out.append((b"access-control-allow-headers", b", ".join(names)))
        return out

    def wrap(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that adds the CORS headers to the response of an actual request."""
        extra: Headers = [(b"vary", b"Origin")]
        origin = _header(scope["headers"], b"origin")
        if origin and self._allows(origin) and scope["method"] in METHODS:
            extra.append((b"access-control-allow-origin", b"*" if self._all else origin))

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        return send_with_cors

"""The API token, as Dapr checks it (dapr pkg/api/http/middlewares.go, APITokenAuthMiddleware)."""

import hmac
from typing import Final

from sandboxd.front.ports import Headers, Scope

TOKEN_HEADER: Final = b"dapr-api-token"

_OPEN: Final = frozenset((b"v1.0/healthz", b"v1.0/healthz/outbound"))
# Not Dapr's paths: probes and scrapers carry no token there either, Dapr's metrics port has no authentication.
_OWN_OPEN: Final = frozenset((b"livez", b"readyz", b"metrics"))


class TokenCheck:
    """Decides whether a request may pass.

    Parameters:
        token: what the header must be.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def __repr__(self) -> str:
        return "<TokenCheck>"

    def passes(self, scope: Scope) -> bool:
        """Whether the request carries the token or needs none. Takes the header out of the scope."""
        headers: Headers = scope["headers"]
        given = b""
        for name, value in headers:
            if name == TOKEN_HEADER:
                given = value
                break
        if given:
            scope["headers"] = [header for header in headers if header[0] != TOKEN_HEADER]
        # compare_digest takes the same time wherever the first difference is.
        if hmac.compare_digest(given, self._token):
            return True
        path: bytes = scope["raw_path"].strip(b"/")
        return scope["method"] == "GET" and (path in _OPEN or path in _OWN_OPEN)

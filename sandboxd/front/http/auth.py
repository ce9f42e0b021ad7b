"""The API token, as Dapr checks it (dapr pkg/api/http/middlewares.go, APITokenAuthMiddleware)."""

import hmac
from typing import Final

from sandboxd.front.ports import Headers, Scope

TOKEN_HEADER: Final = b"dapr-api-token"

_OPEN: Final = frozenset((b"v1.0/healthz", b"v1.0/healthz/outbound"))
# These paths are not Dapr's. Probes and scrapers send no token to Dapr either: its metrics port has no authentication.
_OWN_OPEN: Final = frozenset((b"livez", b"readyz", b"metrics"))


class TokenCheck:
    """Checks the API token of requests.

    Parameters:
        token: the required value of the header.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def __repr__(self) -> str:
        return "<TokenCheck>"

    def passes(self, scope: Scope) -> bool:
        """Return whether the request has the token or needs none. The header is removed from the scope."""
        headers: Headers = scope["headers"]
        given = next((value for name, value in headers if name == TOKEN_HEADER), b"")
        if given:
            scope["headers"] = [header for header in headers if header[0] != TOKEN_HEADER]
        return self.accepts(given) or is_probe(scope)

    def accepts(self, given: bytes) -> bool:
        """Return whether this is the token. Of several tokens of a request the first counts.

        Parameters:
            given: the value of the header; httptools leaves the blanks around it in it (RFC 9110, 5.5).
        """
        # compare_digest takes the same time wherever the first difference is, so that timing reveals nothing.
        return hmac.compare_digest(given.strip(b" \t"), self._token)


def is_probe(scope: Scope) -> bool:
    """Return whether the request is a probe or a scrape.

    These need no token, and are answered even when the server has no room for other requests.
    """
    path: bytes = scope["raw_path"].strip(b"/")
    return scope["method"] == "GET" and (path in _OPEN or path in _OWN_OPEN)

"""Decides who may see the status of a server, and who may act on it.

The page listens on the loopback interface. Every program of the machine reaches it there, and so does every web page
that a browser on the machine shows. A page of another origin can send requests, but it cannot read the answers. It
could read them if its own name resolved to 127.0.0.1 (DNS rebinding), so names in Host are checked. It could act by a
mere request, so requests that act need a header that a page of another origin cannot send without a CORS preflight.
"""

import hmac
import ipaddress
from collections.abc import Iterable
from typing import Final

from sandboxd.front.http.auth import TOKEN_HEADER
from sandboxd.front.ports import Headers, Scope

ACTION_HEADER: Final = b"sandboxd-admin"
"""The header, with any value, that every request that acts must have."""

HEADERS: Final[Headers] = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
"""The headers of every answer."""


class Access:
    """Decides which requests are answered.

    Parameters:
        token: the API token; None or empty requires none.
        hosts: the hosts by which the page may be requested, beside addresses and localhost.
        unix: whether the page is on a Unix socket. No browser reaches it by itself, so any host is accepted there.
    """

    def __init__(self, token: str | None, hosts: Iterable[str], *, unix: bool = False) -> None:
        self._token = token.encode() if token else b""
        self._hosts = frozenset(host.lower() for host in hosts)
        self._unix = unix

    def __repr__(self) -> str:
        return f"<Access{' with a token' if self._token else ''}>"

    def refusal(self, scope: Scope, *, open_to_all: bool) -> tuple[int, str] | None:
        """Return the status and the reason with which a request is refused; None if it is not refused.

        Parameters:
            scope: the request's ASGI scope.
            open_to_all: whether the request is for a file of the page, which shows no data by itself.
        """
        found: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            found.setdefault(name, []).append(value.strip(b" \t"))
        hosts = found.get(b"host", [])
        if len(hosts) != 1 or not self._knows(hosts[0].decode("latin-1")):
            return 421, "this name is not one of the server's: ask by address or localhost, or add it to admin.hosts"
        acts = scope["method"] not in ("GET", "HEAD")
        # Browsers set this header, and no script can. It tells that another site has caused the request.
        if found.get(b"sec-fetch-site", [b"none"])[0] not in (b"same-origin", b"none") and (acts or not open_to_all):
            return 403, "the request comes from another site"
        if acts:
            if any(origin.partition(b"://")[2] != hosts[0] for origin in found.get(b"origin", [])):
                return 403, "the request comes from another origin"
            if ACTION_HEADER not in found:
                return 403, f"the header {ACTION_HEADER.decode()} is missing: it tells the page from other origins"
        given = found.get(TOKEN_HEADER, [b""])[0]
        # compare_digest takes the same time wherever the first difference is, so that timing reveals nothing.
        if self._token and not open_to_all and not hmac.compare_digest(given, self._token):
            return 401, "invalid api token"
        return None

    def _knows(self, host: str) -> bool:
        if self._unix:
            return True
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.rpartition(":")[2].isdecimal():
            name = name.rpartition(":")[0]
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

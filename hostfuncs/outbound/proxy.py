"""Reads the settings of the outbound proxy and of the exceptions from it."""

import ipaddress
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.values import Settings

_PROXY_EXAMPLE = "the outbound proxy is not http://[user:password@]host:port"


def parse_proxy(url: str) -> tuple[bytes, int, tuple[bytes, bytes] | None]:
    """Read `http://[user:password@]host:port`.

    Returns:
        The host, the port, and the user and password if they are given, percent-decoded (RFC 3986, section 2.1).

    Raises:
        ValueError: the text is something else.
    """
    scheme, separator, rest = url.partition("://")
    credentials, _, address = rest.rpartition("@")
    host, _, port = address.rstrip("/").rpartition(":")
    if not separator or scheme != "http" or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(_PROXY_EXAMPLE)
    user, _, password = credentials.partition(":")
    return host.encode("idna"), int(port), (unquote_to_bytes(user), unquote_to_bytes(password)) if credentials else None


def check_proxy(settings: Settings) -> None:
    """Check the settings of the proxy. Raises ValueError, with a remedy, if they are wrong."""
    if settings.proxy is not None:
        parse_proxy(settings.proxy)
    for text in settings.no_proxy:
        parse_exception(text)


def parse_exception(text: str) -> Callable[[Origin], bool]:
    """Read one entry of `no_proxy` as curl and Go read NO_PROXY: a name with its subdomains, an address, or a CIDR.

    Returns:
        a function that returns whether an origin matches the entry.

    Raises:
        ValueError: the entry is something else.
    """
    host, _, port_text = text.rpartition(":") if re.fullmatch(r"[^:]+:[0-9]+|\[.*\]:[0-9]+", text) else (text, "", "")
    port = int(port_text) if port_text else None
    host = host.lower().strip("[]")

    def fits(origin: Origin) -> bool:
        return port is None or origin[2] == port

    if host == "*":
        return fits
    try:
        network = ipaddress.ip_network(host)
    except ValueError:
        name = host.removeprefix("*").removeprefix(".")
        if not name or "*" in name or "/" in name or not name.isascii():
            raise ValueError(
                f"the exception {text!r} from the outbound proxy is not a host; write for example "
                "internal.example.com, .svc.cluster.local, 10.0.0.0/8, localhost:8080 or *"
            ) from None
        return lambda origin: fits(origin) and (origin[1] == name or origin[1].endswith("." + name))

    def within_network(origin: Origin) -> bool:
        try:
            address = ipaddress.ip_address(origin[1])
        except ValueError:
            return False
        return fits(origin) and address.version == network.version and address in network

    return within_network

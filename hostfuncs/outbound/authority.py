"""Reads the authority of a URL so that policy, resolver, TLS and origin all take it for the same host."""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

import idna

from hostfuncs.outbound.addresses import Address

DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
"""Scheme, host (an address without brackets), port."""

_PORT = re.compile(r"[0-9]{0,5}", re.ASCII)
# Underscores are not host-name characters by RFC 952, but service names of container networks contain them.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
# If the last label is a number, inet_aton (and so getaddrinfo) reads a name as an IPv4 address: 2130706433, 0x7f.1,
# 0177.0.0.1. The rule is the WHATWG URL standard's "ends in a number".
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Authority:
    """A host and a port that can be read in one way only."""

    host: str
    """A lower-case ASCII name without a trailing dot, or a canonical address without brackets."""
    port: int
    address: Address | None
    """The address, if the host is one."""
    header: bytes
    """The value of Host: IDNs as A-labels, no userinfo, and the port only if it is not the scheme's."""


@lru_cache(maxsize=256)
def parse_authority(text: str, scheme: str) -> Authority:
    """Read `host[:port]` of a URL with this scheme.

    Parameters:
        text: the authority as the guest gave it, at most 512 characters.
        scheme: `http` or `https`.

    Raises:
        ValueError: the text is not an authority, or could be read in two ways: userinfo, zone ids, control characters
            and white space, ports outside 1 to 65535, IPv4 addresses that are not four decimal numbers, labels or names
            over DNS's lengths, characters that IDNA does not allow. The message says which.
    """
    if not text:
        raise ValueError("the authority is empty; give host or host:port")
    if len(text) > 512:
        raise ValueError("the authority is longer than 512 characters")
    if any(ord(c) <= 0x20 or ord(c) == 0x7F or c in '/?#\\<>^`{|}"%' or c.isspace() for c in text):
        raise ValueError("the authority has white space, control or reserved characters; give host or host:port")
    if "@" in text:
        raise ValueError("the authority has user information; send an Authorization header instead")
    if text.startswith("["):
        inside, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError("the authority's brackets do not enclose an IPv6 address")
        host, port_text = inside, rest[1:]
    else:
        host, _, port_text = text.partition(":")
        if ":" in port_text:
            raise ValueError("an IPv6 address in an authority needs brackets")
    if _PORT.fullmatch(port_text) is None:
        raise ValueError("the port is not a decimal number of at most five digits")
    # RFC 3986 section 3.2.3: an empty port is the scheme's default.
    port = int(port_text) if port_text else DEFAULT_PORTS[scheme]
    if not 1 <= port <= 65535:
        raise ValueError("the port is not between 1 and 65535")
    name, address = _host(host, bracketed=text.startswith("["))
    shown = f"[{name}]" if address is not None and address.version == 6 else name
    header = shown if port == DEFAULT_PORTS[scheme] else f"{shown}:{port}"
    return Authority(name, port, address, header.encode("ascii"))


def parse_host(text: str) -> tuple[str, Address | None]:
    """Read a bare host as `parse_authority` does. An IPv6 address may have brackets. Raises ValueError."""
    if text.startswith("[") and text.endswith("]"):
        return _host(text[1:-1], bracketed=True)
    return _host(text, bracketed=":" in text)


def _host(host: str, *, bracketed: bool) -> tuple[str, Address | None]:
    if bracketed:
        try:
            address = ipaddress.IPv6Address(host)
        except ipaddress.AddressValueError:
            raise ValueError("the authority's brackets do not enclose an IPv6 address") from None
        if address.scope_id is not None:
            raise ValueError("zone identifiers are not allowed in an authority")
        return address.compressed, address
    name = host.lower() if host.isascii() else _to_ascii(host)
    if name.endswith("."):
        name = name[:-1]
    if not name or len(name) > 253:
        raise ValueError("the host is empty or longer than 253 characters")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            v4 = ipaddress.IPv4Address(name)
        except ipaddress.AddressValueError:
            raise ValueError("the host looks like an IPv4 address but is not four decimal numbers") from None
        return str(v4), v4
    if any(_LABEL.fullmatch(label) is None for label in labels):
        raise ValueError("the host is not a valid host name")
    return name, None


def _to_ascii(host: str) -> str:
    try:
        return idna.encode(host, uts46=True).decode("ascii").lower()
    except idna.IDNAError:
        raise ValueError("the host is not a valid internationalised name") from None

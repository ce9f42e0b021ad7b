"""What kind of place an IP address is, whatever disguise it arrives in."""

import ipaddress
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Kind(StrEnum):
    """The classes egress rules tell apart."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"


ALLOWED_BY_DEFAULT = frozenset({Kind.PUBLIC, Kind.PRIVATE})
"""Reachable without being listed: what a Dapr guest can reach today, less what only an attacker would ask for."""


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


METADATA_NETWORKS = _networks(
    "169.254.169.254/32",  # AWS, Azure, GCP, OpenStack, DigitalOcean
    "169.254.170.2/32",  # AWS ECS task credentials
    "169.254.170.23/32",  # AWS EKS pod identity
    "168.63.129.16/32",  # Azure wire server
    "100.100.100.200/32",  # Alibaba Cloud
    "192.0.0.192/32",  # Oracle Cloud
    "fd00:ec2::/32",  # AWS over IPv6: ::254 and ::23
    "fd20:ce::254/128",  # GCP over IPv6
)
METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata.goog", "metadata.tencentyun.com"})
"""Names that mean a metadata service and nothing else. Short ones (`metadata`) may be a cluster's own services; what
they resolve to decides."""

# Order matters: the first network that holds an address names its kind.
_KINDS: tuple[tuple[Kind, tuple[Network, ...]], ...] = (
    (Kind.METADATA, METADATA_NETWORKS),
    # 0.0.0.0/8 is here and not merely invalid: Linux connects 0.0.0.0 to the loopback interface.
    (Kind.UNSPECIFIED, _networks("0.0.0.0/8", "::/128", "255.255.255.255/32")),
    (Kind.LOOPBACK, _networks("127.0.0.0/8", "::1/128")),
    (Kind.LINK_LOCAL, _networks("169.254.0.0/16", "fe80::/10")),
    (Kind.MULTICAST, _networks("224.0.0.0/4", "ff00::/8")),
    (
        Kind.PRIVATE,
        _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"),
    ),
)

BLOCK_NAMES: dict[str, tuple[Network, ...]] = {
    "private": dict(_KINDS)[Kind.PRIVATE],
    "loopback": dict(_KINDS)[Kind.LOOPBACK] + dict(_KINDS)[Kind.UNSPECIFIED],
    "link-local": dict(_KINDS)[Kind.LINK_LOCAL],
    "metadata": METADATA_NETWORKS,
}
"""The names `blockNetworks` takes beside CIDRs."""

_NAT64 = _networks("64:ff9b::/96", "64:ff9b:1::/48")
_V4_COMPATIBLE = ipaddress.ip_network("::/96")


@lru_cache(maxsize=1024)
def forms(address: Address) -> tuple[Address, ...]:
    """Return every address a packet to `address` may end at: itself, and the IPv4 address it carries inside.

    IPv4-mapped addresses are the IPv4 address and nothing else. NAT64 (RFC 6052 well-known and local-use prefix),
    6to4, Teredo and the old IPv4-compatible form leave through a translator, so both are returned.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    found: list[Address] = [address]
    if any(address in network for network in _NAT64) or (address in _V4_COMPATIBLE and int(address) > 1):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return tuple(found)


@lru_cache(maxsize=1024)
def kind_of(address: Address) -> Kind:
    """Return the kind of one address as it stands; `forms` first, to see through disguises."""
    for kind, networks in _KINDS:
        if within(address, networks):
            return kind
    return Kind.PUBLIC


def within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether any of the networks holds the address. Families never mix."""
    return any(address.version == network.version and address in network for network in networks)

"""Classifies IP addresses, including those that embed another address."""

import ipaddress
from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

from hostfuncs.outbound.routes import ends_here

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Kind(StrEnum):
    """The classes of addresses that egress rules distinguish."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"


ALLOWED_BY_DEFAULT = frozenset({Kind.PUBLIC, Kind.PRIVATE})
"""Reachable without being listed: all that a Dapr guest can reach, except what only an attacker would request."""
ALLOWED_BY_NAME = frozenset({Kind.LOOPBACK})
"""Also reachable through a rule that names the host, whatever the host's name server answers."""


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


METADATA_NETWORKS = _networks(
    "169.254.169.254/32",  # AWS, Azure, Google Cloud, Oracle, OpenStack, DigitalOcean, Hetzner, Akamai and others
    "169.254.170.2/32",  # AWS ECS task credentials
    "169.254.170.23/32",  # AWS EKS pod identity
    "169.254.0.23/32",  # Tencent Cloud
    "169.254.42.42/32",  # Scaleway
    "168.63.129.16/32",  # Azure wire server
    "100.100.100.200/32",  # Alibaba Cloud
    "100.96.0.96/32",  # Volcano Engine
    "100.80.80.80/32",  # UCloud
    "192.0.0.192/32",  # Oracle Cloud Classic
    "fd00:ec2::/32",  # AWS over IPv6: ::254, ::23 and the resolver
    "fd20:ce::254/128",  # Google Cloud over IPv6
    "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud over IPv6
    "fd00:42::42/128",  # Scaleway over IPv6
    "fd00:a9fe:a9fe::1/128",  # Akamai over IPv6
    "fd00:100::100:200/128",  # Alibaba Cloud over IPv6
    "fe80::a9fe:a9fe/128",  # OpenStack over IPv6
)
"""The addresses at which clouds hand out an instance's credentials, according to the vendors' documents."""
METADATA_HOSTS = frozenset(
    (
        "metadata.google.internal",
        "metadata.goog",
        "metadata.tencentyun.com",
        "instance-data.ec2.internal",
        "metadata.platformequinix.com",
        "metadata.packet.net",
        "api.metadata.cloud.ibm.com",
    )
)
"""The names that mean a metadata service and nothing else. Short names (`metadata`) may be a cluster's own services, so
their addresses decide."""
LINK_LOCAL_NETWORKS = _networks("169.254.0.0/16", "fe80::/10")

# Order matters: the first network that contains an address determines its kind.
_KINDS: tuple[tuple[Kind, tuple[Network, ...]], ...] = (
    (Kind.METADATA, METADATA_NETWORKS),
    # 0.0.0.0/8 needs a kind, because Linux connects 0.0.0.0 to the loopback interface.
    (Kind.UNSPECIFIED, _networks("0.0.0.0/8", "::/128", "255.255.255.255/32")),
    (Kind.LOOPBACK, _networks("127.0.0.0/8", "::1/128")),
    (Kind.LINK_LOCAL, LINK_LOCAL_NETWORKS),
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
"""The names that `blockNetworks` accepts beside CIDRs."""

NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)
"""The lengths that a NAT64 prefix may have (RFC 6052, 2.2)."""
_TRANSLATED: tuple[tuple[ipaddress.IPv6Network, tuple[int, ...]], ...] = (
    (ipaddress.IPv6Network("64:ff9b::/96"), (96,)),
    # RFC 8215: an operator chooses the prefix within this one.
    (ipaddress.IPv6Network("64:ff9b:1::/48"), (48, 56, 64, 96)),
    # RFC 6052 allows only /96 of the well-known prefix. The rest has no other use, so any length is taken for NAT64.
    (ipaddress.IPv6Network("64:ff9b::/32"), NAT64_LENGTHS),
    # SIIT's IPv4-translated addresses (RFC 6145, before it RFC 2765).
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), (96,)),
)
_V4_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NO_HOST = ipaddress.IPv4Network("0.0.0.0/8")
_ISATAP = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""The middle of an ISATAP address (RFC 5214, 6.1), without and with the bit for a globally unique address."""


def embedded(address: ipaddress.IPv6Address, length: int) -> ipaddress.IPv4Address:
    """Return the IPv4 address that follows a NAT64 prefix (RFC 6052, 2.2).

    Parameters:
        address: an address, which need not have such a prefix.
        length: the length of the prefix, one of NAT64_LENGTHS.
    """
    octets = address.packed
    # Bits 64 to 71 are not part of the IPv4 address.
    after = octets[length // 8 : 8] + octets[9:] if length < 96 else octets[12:]
    return ipaddress.IPv4Address(after[:4])


@lru_cache(maxsize=1024)
def forms(address: Address, nat64: tuple[ipaddress.IPv6Network, ...] = ()) -> tuple[Address, ...]:
    """Return every address at which a packet to `address` may arrive: itself, and the IPv4 addresses it embeds.

    An IPv4-mapped address is just the IPv4 address. With all others a translator or a tunnel is involved, so both
    addresses are returned: NAT64 (RFC 6052, the well-known and the local-use prefix at every length), SIIT, ISATAP,
    6to4, Teredo and the old IPv4-compatible form.

    Parameters:
        address: the address of a connection.
        nat64: further NAT64 prefixes of the network, each of one of NAT64_LENGTHS.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    found: list[Address] = [address]
    for network, lengths in _TRANSLATED:
        if address in network:
            inside = [embedded(address, length) for length in lengths]
            # If the prefix may have several lengths, readings that are no host's address are left out.
            found += inside if len(inside) == 1 else [v4 for v4 in inside if v4 not in _NO_HOST]
            break
    found += [embedded(address, network.prefixlen) for network in nat64 if address in network]
    if address in _V4_COMPATIBLE and int(address) > 1:
        found.append(embedded(address, 96))
    if address.packed[8:12] in _ISATAP:
        found.append(embedded(address, 96))
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return tuple(dict.fromkeys(found))


def is_of_this_machine(address: Address) -> bool:
    """Return whether a connection to this address ends at this machine. Each call asks the kernel."""
    return kind_of(address) in (Kind.LOOPBACK, Kind.UNSPECIFIED) or ends_here(address)


@lru_cache(maxsize=1024)
def kind_of(address: Address) -> Kind:
    """Return the kind of one address. It does not look for embedded addresses; `forms` does."""
    for kind, networks in _KINDS:
        if within(address, networks):
            return kind
    return Kind.PUBLIC


def singles_out(network: Network, kind: Kind) -> bool:
    """Return whether a rule's network is specific enough to allow the addresses of a kind that it contains.

    A metadata address needs a rule with that address alone, or with a part of its service's network. A link-local
    address needs a part of the link-local range. For any other kind, every network will do.
    """
    if kind is Kind.METADATA:
        return network.num_addresses == 1 or _part_of(network, METADATA_NETWORKS)
    return kind is not Kind.LINK_LOCAL or _part_of(network, LINK_LOCAL_NETWORKS)


def _part_of(network: Network, networks: Sequence[Network]) -> bool:
    return any(
        network.version == other.version and network.prefixlen >= other.prefixlen and network.network_address in other
        for other in networks
    )


def within(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether any of the networks contains the address. A network of the other family never does."""
    return any(address.version == network.version and address in network for network in networks)

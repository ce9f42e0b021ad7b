"""The egress policy: the origins that guests may call. It is one frozen value per binding.

Every request is checked in this order:

 1. Scheme: it is `http` or `https`, and that of a rule.
 2. Host pattern: the first rule that matches scheme, host and port. Rules with a name or an address take precedence
    over those with a wildcard. Without a list, every host passes except the names of metadata services.
 3. Limits (requests started so far, header sizes). `admission` checks them.
 4. Resolve the name, once.
 5. Every address of the name, in all its forms (see `addresses.forms`), is checked against
     - `block_networks`, which nothing overrides;
     - the server's own ports: on an address of this machine they need a rule that names both the address and the port;
     - the kinds of addresses. Public and private addresses pass. Loopback addresses need a rule that names the host, or
       one whose address or CIDR contains them. Link-local, multicast and unspecified addresses need a rule with such an
       address or CIDR. Addresses of metadata services need a rule that names the very address or the name of such a
       service, or the word `metadata`. Nothing more depends on the answers of a name server.
 6. Connect to an address that passed, never to a name.

Addresses that do not pass are left out. If none is left, the request is denied.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hostfuncs.outbound.addresses import (
    ALLOWED_BY_DEFAULT,
    ALLOWED_BY_NAME,
    BLOCK_NAMES,
    METADATA_HOSTS,
    METADATA_NETWORKS,
    NAT64_LENGTHS,
    Address,
    Kind,
    Network,
    forms,
    is_of_this_machine,
    kind_of,
    singles_out,
    within,
)
from hostfuncs.outbound.authority import DEFAULT_PORTS, Authority, parse_host
from hostfuncs.outbound.errors import ErrorCode

DEFAULT_RULE = "default"
"""The name in usage records of the rule that applies without a list."""

_RULE = re.compile(
    r"(?P<scheme>https?|\*)://(?P<host>\[[^\]]*\](?:/[0-9]+)?|[^\[\]:]+)(?::(?P<port>\*|[0-9]{1,5}))?", re.ASCII
)
METADATA = "metadata"
"""The pattern that stands for all metadata services."""
_EXAMPLES = "write for example https://api.example.com, http://*.svc.cluster.local:8080, https://10.1.0.0/16:* or *"


class Denied(Exception):  # noqa: N818 - a decision, not a malfunction
    """The policy refuses a request.

    Parameters:
        reason: `host`, `address`, `scheme`, `method` or `limit`.
        rule: the pattern that had matched before; empty if none had.
    """

    def __init__(self, reason: str, rule: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.rule = rule
        self.code = ErrorCode("destination-IP-prohibited" if reason == "address" else "HTTP-request-denied")


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern of an allow list."""

    text: str
    schemes: frozenset[str]
    port: int | None
    """The port; 0 for the scheme's own, None for any."""
    host: str | None = None
    """A literal name."""
    suffix: str | None = None
    """`.example.com` of `*.example.com`. It matches all names below it, and not itself. Empty for any host."""
    network: Network | None = None

    @property
    def literal(self) -> bool:
        """Whether the pattern is one host's name."""
        return self.host is not None

    def matches(self, scheme: str, authority: Authority) -> bool:
        """Return whether scheme, host and port fit."""
        if not self.fits(scheme, authority.port):
            return False
        if self.network is not None:
            # An address that only embeds one of the network does not belong to it.
            return authority.address is not None and within(_unmapped(authority.address), [self.network])
        if self.host is not None:
            return authority.host == self.host
        assert self.suffix is not None
        return self.suffix == "" or (authority.address is None and authority.host.endswith(self.suffix))

    def fits(self, scheme: str, port: int) -> bool:
        """Return whether scheme and port fit, regardless of the host."""
        return scheme in self.schemes and (self.port is None or port == (self.port or DEFAULT_PORTS[scheme]))


@dataclass(frozen=True, slots=True)
class Policy:
    """The egress policy of a binding."""

    rules: tuple[Rule, ...] | None
    """The rules in order; None for the default rule alone."""
    blocked: tuple[Network, ...] = ()
    """Networks that are never connected to."""
    nat64: tuple[ipaddress.IPv6Network, ...] = ()
    """The NAT64 prefixes of the network, beside the well-known ones."""
    own_ports: frozenset[int] = frozenset()
    """The ports on which the server itself listens."""
    owner: str = ""
    """The binding's name. Bindings never share connections, because an origin may have authenticated one of them."""

    @classmethod
    def parse(
        cls,
        allowed_hosts: Sequence[str] | None,
        block_networks: Iterable[str] = (),
        *,
        nat64_prefixes: Iterable[str] = (),
        own_ports: Iterable[int] = (),
        owner: str = "",
    ) -> "Policy":
        """Read patterns.

        Parameters:
            allowed_hosts: `scheme://host[:port]` with scheme `http`, `https` or `*`; host a name, `*.` and a name, an
                address, a CIDR, or `*`; port a number or `*` and by default the scheme's. Or `*` alone, or `metadata`
                alone for all metadata services. None for the default rule, an empty list for nothing at all.
            block_networks: CIDRs, addresses, or `private`, `loopback`, `link-local`, `metadata`.
            nat64_prefixes: the NAT64 prefixes of the network, beside the well-known ones.
            own_ports: the ports on which the server itself listens.
            owner: the name of the policy's binding.

        Raises:
            ValueError: a pattern is wrong. The message names it, its fault and what to write instead.
            TypeError: the patterns are one text instead of a sequence.
        """
        if isinstance(allowed_hosts, str | bytes):
            raise TypeError(f"allowed_hosts is one text; write [{allowed_hosts!r}]")
        blocked: list[Network] = []
        for text in block_networks:
            if text in BLOCK_NAMES:
                blocked.extend(BLOCK_NAMES[text])
                continue
            try:
                blocked.append(ipaddress.ip_network(text))
            except ValueError as exc:
                if "host bits" in str(exc):
                    raise ValueError(
                        f"block network {text!r} has bits set beyond its prefix; write the network's first address, or "
                        "a longer prefix"
                    ) from None
                names = ", ".join(BLOCK_NAMES)
                raise ValueError(
                    f"block network {text!r} is neither a network nor a known name; write a CIDR such as 10.0.0.0/8, "
                    f"or one of {names}"
                ) from None
        rules = None
        if allowed_hosts is not None:
            rules = tuple(rule for text in allowed_hosts for rule in _parse_rules(text))
        nat64 = tuple(_parse_prefix(text) for text in nat64_prefixes)
        return cls(rules, tuple(blocked), nat64, frozenset(own_ports), owner)

    def admit(self, scheme: str, authority: Authority) -> Rule | None:
        """Make steps 1 and 2. Return the rule that admits the request; None for the default rule.

        Raises:
            Denied: `scheme` if no rule has this scheme, `host` if none matches.
        """
        if scheme not in DEFAULT_PORTS:
            raise Denied("scheme")
        if self.rules is None:
            if authority.host in METADATA_HOSTS:
                raise Denied("host", DEFAULT_RULE)
            return None
        # A rule that names the host takes precedence over an earlier wildcard: it allows more addresses.
        found = [rule for rule in self.rules if rule.matches(scheme, authority)]
        if found:
            chosen = next((rule for rule in found if rule.literal or rule.network is not None), found[0])
            if authority.host in METADATA_HOSTS and not chosen.literal:
                raise Denied("host", chosen.text)
            return chosen
        if self.rules and not any(scheme in rule.schemes for rule in self.rules):
            raise Denied("scheme")
        raise Denied("host")

    def check_address(self, rule: Rule | None, scheme: str, port: int, address: Address) -> None:
        """Make step 5 for one resolved address.

        Raises:
            Denied: the address is not allowed. The reason is `address`.
        """
        text = DEFAULT_RULE if rule is None else rule.text
        for form in forms(address, self.nat64):
            kind = kind_of(form)
            if (
                within(form, self.blocked)
                or (port in self.own_ports and is_of_this_machine(form) and not self._names(scheme, port, form))
                or not (kind in ALLOWED_BY_DEFAULT or _lifts(rule, kind) or self._lists(scheme, port, form, kind))
            ):
                raise Denied("address", text)

    def _lists(self, scheme: str, port: int, address: Address, kind: Kind) -> bool:
        return any(
            rule.network is not None
            and rule.fits(scheme, port)
            and within(address, [rule.network])
            and singles_out(rule.network, kind)
            for rule in self.rules or ()
        )

    def _names(self, scheme: str, port: int, address: Address) -> bool:
        """Return whether a rule names this very address and port."""
        return any(
            rule.network is not None
            and rule.network.num_addresses == 1
            and rule.port == port
            and rule.fits(scheme, port)
            and within(address, [rule.network])
            for rule in self.rules or ()
        )


def _lifts(rule: Rule | None, kind: Kind) -> bool:
    """Return whether a rule that names the host lets it resolve to an address of this kind."""
    if rule is None or rule.host is None:
        return False
    return kind in ALLOWED_BY_NAME or (kind is Kind.METADATA and rule.host in METADATA_HOSTS)


def _unmapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _parse_prefix(text: str) -> ipaddress.IPv6Network:
    try:
        network = ipaddress.IPv6Network(text)
    except ValueError as exc:
        raise ValueError(f"NAT64 prefix {text!r}: {exc}; write for example 2001:db8:64::/96") from None
    if network.prefixlen not in NAT64_LENGTHS or network.network_address.packed[8]:
        lengths = ", ".join(map(str, NAT64_LENGTHS))
        raise ValueError(
            f"NAT64 prefix {text!r} is not valid (RFC 6052): write one of {lengths} bits whose bits 64 to 71 are zero"
        )
    return network


def _parse_rules(text: str) -> list[Rule]:
    if text != METADATA:
        return [_parse_rule(text)]
    schemes = frozenset(DEFAULT_PORTS)
    named = [Rule(text, schemes, None, host=host) for host in sorted(METADATA_HOSTS)]
    return named + [Rule(text, schemes, None, network=network) for network in METADATA_NETWORKS]


def _parse_rule(text: str) -> Rule:
    if text == "*":
        return Rule("*", frozenset(DEFAULT_PORTS), None, suffix="")
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(f"allowed outbound host {text!r} is not scheme://host[:port]; {_EXAMPLES}")
    schemes = frozenset(DEFAULT_PORTS) if found["scheme"] == "*" else frozenset({found["scheme"]})
    port_text = found["port"]
    port = None if port_text == "*" else int(port_text or 0)
    if port is not None and (port > 65535 or (port_text is not None and port == 0)):
        raise ValueError(f"allowed outbound host {text!r} has port {port_text}; ports are 1 to 65535, or * for any")
    host = found["host"]
    if host == "*":
        return Rule(text, schemes, port, suffix="")
    try:
        if "/" in host:
            return Rule(text, schemes, port, network=ipaddress.ip_network(_unbracket(host)))
        if host.startswith("*."):
            name, address = parse_host(host[2:])
            if address is not None:
                raise ValueError("a wildcard needs a name after it, not an address")
            return Rule(text, schemes, port, suffix="." + name)
        if "*" in host:
            raise ValueError("* stands for whole labels at the beginning only")
        name, address = parse_host(host)
    except ValueError as exc:
        raise ValueError(f"allowed outbound host {text!r}: {exc}; {_EXAMPLES}") from None
    if address is not None:
        return Rule(text, schemes, port, network=ipaddress.ip_network(address))
    return Rule(text, schemes, port, host=name)


def _unbracket(host: str) -> str:
    """Return a CIDR without brackets: `[fd00::/8]` and `[fd00::]/8` both mean fd00::/8."""
    return host.replace("[", "").replace("]", "")

"""The settings of outbound HTTP, for all bindings."""

from dataclasses import dataclass

from sandboxd.limits.about import certificates, flag, number, text, texts
from sandboxd.limits.units import HOUR_MS, Unit

_D, _C = Unit.DURATION, Unit.COUNT


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboundSettings:
    """The section `egress` of the settings. Workers and the egress broker get it, too."""

    default_allowed_hosts: tuple[str, ...] | None = texts(
        "defaultAllowedHosts",
        None,
        "patterns for bindings without `allowedOutboundHosts`; an empty list allows nothing",
        text="public and private addresses, as Dapr",
    )
    block_networks: tuple[str, ...] = texts(
        "blockNetworks", (), "never connected to: CIDRs, or `private`, `loopback`, `link-local`, `metadata`"
    )
    nat64_prefixes: tuple[str, ...] = texts(
        "nat64Prefixes",
        (),
        "NAT64 prefixes of the network beside `64:ff9b::/96`; the policy also checks the IPv4 address in an address",
    )
    ca_files: tuple[str, ...] = texts("caFiles", (), "PEM files of CAs trusted beside the system's")
    client_certificates: tuple[tuple[str, str, str], ...] = certificates(
        "clientCertificates",
        "list of `{origin, certificate, key}`: PEM files presented to origins matching the pattern",
    )
    proxy: str | None = text(
        "proxy", None, "`http://[user:password@]host:port` of a proxy; the environment's proxies are ignored"
    )
    no_proxy: tuple[str, ...] = texts(
        "noProxy",
        (),
        "hosts reached without the proxy: names with their subdomains, addresses, CIDRs, each with an optional `:port`",
    )
    transport: str | None = text(
        "transport",
        None,
        "`package.module:factory` that makes an httpx2 transport around the one that sends guests' requests",
    )
    http2: bool = flag("http2", False, "speak HTTP/2 where an origin offers it")
    connections: int = number("connections", _C, 1, 65_535, "connections a worker may hold", default=64)
    connect_timeout_ms: int = number("connectTimeout", _D, 1, HOUR_MS, "connecting to an origin", default=10_000)
    first_byte_timeout_ms: int = number(
        "firstByteTimeout", _D, 1, HOUR_MS, "from the request's end to the response head", default=60_000
    )
    between_bytes_timeout_ms: int = number(
        "betweenBytesTimeout", _D, 1, HOUR_MS, "the longest pause within a response body", default=60_000
    )

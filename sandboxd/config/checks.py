"""Checks between settings, and of the syntax of settings that are more than a number or a word."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from sandboxd.config.admin import parse
from sandboxd.config.model import Config
from sandboxd.limits.keys import LIMITS
from sandboxd.limits.units import Unit

NETWORK_NAMES: Final = ("private", "loopback", "link-local", "metadata")
"""The names that blockNetworks accepts beside CIDRs."""

MAX_SOCKET_BYTES: Final = 108
"""The longest path of a Unix socket, with its terminating zero: unix(7), sun_path."""

_FACTORY: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

Finding = tuple[tuple[str, str], str, str]
"""((section, field) to blame, message, remedy)."""


def contradictions(config: Config) -> Iterator[Finding]:
    """Yield the faults that no single setting's bounds show: contradictions, and texts with the wrong syntax."""
    yield from _limits(config)
    yield from _engine(config)
    yield from _listen(config)
    yield from _egress(config)
    yield from _admin(config)
    if not config.app_id:
        yield ("", "app_id"), "appId is empty", "give it a name, or leave it out"


def _limits(config: Config) -> Iterator[Finding]:
    for field, about in LIMITS.items():
        value, most = getattr(config.limits, field), getattr(config.ceilings, field)
        if value > most:
            shown = about.unit.format(value)
            yield (
                ("limits", field),
                f"limits.{about.key} {shown} is above limits.ceilings.{about.key} {about.unit.format(most)}",
                "lower the limit or raise the ceiling",
            )
    most = config.wasm.max_memory_bytes
    if config.ceilings.memory_bytes > most:
        yield (
            ("ceilings", "memory_bytes"),
            f"limits.ceilings.memoryLimit {Unit.SIZE.format(config.ceilings.memory_bytes)} is above "
            f"wasm.maxMemory {Unit.SIZE.format(most)}, the address space each memory gets",
            "lower the ceiling or raise wasm.maxMemory",
        )


def _engine(config: Config) -> Iterator[Finding]:
    engine = config.engine
    if (engine.tls_certificate is None) != (engine.tls_key is None):
        missing, present = ("tlsKey", "tls_certificate") if engine.tls_key is None else ("tlsCertificate", "tls_key")
        yield ("engine", present), f"engine.{missing} is missing", "TLS needs the certificate and its key"
    if engine.kind == "uvicorn" and engine.tls_certificate is not None:
        yield ("engine", "kind"), "engine.kind uvicorn does not serve TLS", "set engine.kind to auto or hypercorn"


def _listen(config: Config) -> Iterator[Finding]:
    if not config.listen.host:
        yield ("listen", "host"), "listen.host is empty", "0.0.0.0 listens on every IPv4 address"
    for field in ("unix_socket", "grpc_unix_socket"):
        path = getattr(config.listen, field)
        if path is not None and not 0 < len(path.encode()) < MAX_SOCKET_BYTES:
            yield (
                ("listen", field),
                f"listen.{'unixSocket' if field == 'unix_socket' else 'grpcUnixSocket'} is not a valid path",
                f"the path of a Unix socket has 1 to {MAX_SOCKET_BYTES - 1} bytes",
            )
    if config.listen.grpc_port and config.listen.grpc_port == config.listen.port:
        yield (
            ("listen", "grpc_port"),
            f"listen.grpcPort is the same as listen.port, {config.listen.port}",
            "give gRPC a port of its own, or 0 for none",
        )
    for origin in config.listen.allowed_origins:
        if origin != "*" and not _is_origin(origin):
            yield (
                ("listen", "allowed_origins"),
                f"listen.allowedOrigins: {origin!r} is not an origin",
                "an origin is scheme://host or scheme://host:port, or * for all",
            )


def _admin(config: Config) -> Iterator[Finding]:
    try:
        address = parse(config.admin.listen)
    except ValueError as error:
        yield ("admin", "listen"), f"admin.listen is not an address: {config.admin.listen!r}", str(error)
        return
    if address is None or config.admin.listen is None:
        return
    if address.path and len(address.path.encode()) >= MAX_SOCKET_BYTES:
        yield (
            ("admin", "listen"),
            "admin.listen is not a valid path",
            f"the path of a Unix socket has 1 to {MAX_SOCKET_BYTES - 1} bytes",
        )
    if address.port and address.port == config.listen.port and config.listen.unix_socket is None:
        yield (
            ("admin", "listen"),
            f"admin.listen is on the port of the API, {address.port}",
            "give it a port of its own: those who may call guests need not see the server's status",
        )


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.scheme and parts.hostname) and text == f"{parts.scheme}://{parts.netloc}" and "@" not in text


def _egress(config: Config) -> Iterator[Finding]:
    for network in config.egress.block_networks:
        problem = _network_problem(network)
        if problem:
            yield (
                ("egress", "block_networks"),
                f"egress.blockNetworks: {network!r} {problem}",
                f"write a CIDR such as 10.0.0.0/8, or one of {', '.join(NETWORK_NAMES)}",
            )
    for prefix in config.egress.nat64_prefixes:
        if not _is_nat64_prefix(prefix):
            yield (
                ("egress", "nat64_prefixes"),
                f"egress.nat64Prefixes: {prefix!r} is not a NAT64 prefix (RFC 6052)",
                "write an IPv6 CIDR of 32, 40, 48, 56, 64 or 96 bits whose bits 64 to 71 are zero",
            )
    if config.egress.proxy is not None and not _is_proxy(config.egress.proxy):
        # Not repeated in the message: a proxy's URL may hold a password.
        yield (
            ("egress", "proxy"),
            "egress.proxy is not http://[user:password@]host:port",
            "http://proxy.internal:3128",
        )
    transport = config.egress.transport
    if transport is not None and not _FACTORY.fullmatch(transport):
        yield (
            ("egress", "transport"),
            f"egress.transport: {transport!r} does not name a function",
            "write package.module:factory",
        )


def _is_nat64_prefix(text: str) -> bool:
    try:
        network = ipaddress.IPv6Network(text)
    except ValueError:
        return False
    return network.prefixlen in (32, 40, 48, 56, 64, 96) and not network.network_address.packed[8]


def _network_problem(text: str) -> str:
    if text in NETWORK_NAMES:
        return ""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            return "is not a network"
        return "has bits set beyond its prefix"
    return ""


def _is_proxy(text: str) -> bool:
    """Return whether `hostfuncs.outbound.sender` accepts the URL. A bad one would fail every invocation there."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme == "http"
        and bool(parts.hostname)
        and bool(port)
        and text == f"http://{parts.netloc}{parts.path}"
        and parts.path in ("", "/")
    )

"""What must hold between settings, and the syntax of those that are more than a number or a word."""

import ipaddress
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from sandboxd.config.model import Config
from sandboxd.limit_keys import LIMITS, Unit

NETWORK_NAMES: Final = ("private", "loopback", "link-local", "metadata")
"""Names blockNetworks accepts beside CIDRs."""

Finding = tuple[tuple[str, str], str, str]
"""((section, field) to blame, message, remedy)."""


def contradictions(config: Config) -> Iterator[Finding]:
    """Everything wrong with settings that are each within their own bounds."""
    yield from _limits(config)
    yield from _engine(config)
    yield from _listen(config)
    yield from _egress(config)
    if not config.app_id:
        yield ("", "app_id"), "appId is empty", "give it a name, or leave it out"


def _limits(config: Config) -> Iterator[Finding]:
    for row in LIMITS:
        value, most = getattr(config.limits, row.field), getattr(config.ceilings, row.field)
        if value > most:
            yield (
                ("limits", row.field),
                f"limits.{row.key} {row.unit.format(value)} is above limits.ceilings.{row.key} {row.unit.format(most)}",
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
        yield ("engine", "kind"), "engine.kind uvicorn does not serve TLS here", "set engine.kind to auto or hypercorn"


def _listen(config: Config) -> Iterator[Finding]:
    if not config.listen.host:
        yield ("listen", "host"), "listen.host is empty", "0.0.0.0 listens on every IPv4 address"
    for origin in config.listen.allowed_origins:
        if origin != "*" and not _is_origin(origin):
            yield (
                ("listen", "allowed_origins"),
                f"listen.allowedOrigins: {origin!r} is no origin",
                "an origin is scheme://host or scheme://host:port, or * for all",
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
    if config.egress.proxy is not None and not _is_proxy(config.egress.proxy):
        # Not repeated in the message: a proxy's URL may hold a password.
        yield (
            ("egress", "proxy"),
            "egress.proxy is not http://[user:password@]host:port",
            "http://proxy.internal:3128",
        )


def _network_problem(text: str) -> str:
    if text in NETWORK_NAMES:
        return ""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError:
            return "is no network"
        return "has bits set beyond its prefix"
    return ""


def _is_proxy(text: str) -> bool:
    """Whether `hostfuncs.outbound.sender` will take it; found there, it would fail every invocation."""
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

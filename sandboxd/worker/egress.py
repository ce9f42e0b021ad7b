"""Outbound HTTP of a worker: the server's settings and a binding's limits in the terms of `hostfuncs.outbound`."""

from __future__ import annotations

import functools

from hostfuncs.outbound import Outbound, OutboundLimits, Policy, Settings, UsageRecord, warm
from sandboxd.limits import Limits
from sandboxd.wire.messages import GuestSpec, OutboundSettings, OutboundUsage


@functools.cache
def outbound_for(settings: OutboundSettings) -> Outbound:
    """The engine all guests of this process share, so that they share its connections. For use after the fork."""
    return Outbound(_settings(settings))


def prepare(settings: OutboundSettings) -> None:
    """Before the fork: read the CA certificates, which takes tens of milliseconds and is then shared by all workers.

    Raises:
        ValueError: a file cannot be read or is no PEM, or a pattern is wrong; names the file or pattern.
    """
    warm(_settings(settings))


def _settings(settings: OutboundSettings) -> Settings:
    return Settings(
        ca_files=settings.ca_files,
        client_certificates=settings.client_certificates,
        proxy=settings.proxy,
        http2=settings.http2,
        connections=settings.connections,
        connect_timeout_ms=settings.connect_timeout_ms,
        first_byte_timeout_ms=settings.first_byte_timeout_ms,
        between_bytes_timeout_ms=settings.between_bytes_timeout_ms,
    )


def policy_for(spec: GuestSpec, settings: OutboundSettings) -> Policy:
    """Who a binding's guest may call.

    Raises:
        ValueError: a pattern is wrong.
    """
    allowed = spec.allowed_outbound_hosts
    return Policy.parse(settings.default_allowed_hosts if allowed is None else allowed, settings.block_networks)


def limits_for(limits: Limits) -> OutboundLimits:
    """The outbound part of a binding's limits."""
    return OutboundLimits(
        requests=limits.outbound_requests,
        concurrency=limits.outbound_concurrency,
        header_bytes=limits.outbound_header_bytes,
        header_count=limits.outbound_header_count,
        body_bytes=limits.outbound_body_bytes,
    )


def usage_of(records: list[UsageRecord]) -> tuple[OutboundUsage, ...]:
    """What goes to the front."""
    return tuple(
        OutboundUsage(rule=r.rule, outcome=r.outcome, duration_ns=r.duration_ns, denied=r.denied) for r in records
    )

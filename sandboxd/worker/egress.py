"""Outbound HTTP of a worker: the server's settings and a binding's limits in the terms of `hostfuncs.outbound`."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from hostfuncs.outbound import Outbound, OutboundLimits, Settings, UsageRecord, warm
from hostfuncs.running.egress import Egress, TransportEgress
from sandboxd.broker.dialer import BrokerDialer
from sandboxd.broker.policies import policy_for
from sandboxd.limits import OutboundSettings
from sandboxd.limits.keys import converted
from sandboxd.wire.messages import RECORDS_MAX, GuestSpec, OutboundUsage

__all__ = ["BrokerDialer", "egress_for", "outbound_for", "prepare", "usage_of"]


@functools.cache
def outbound_for(settings: OutboundSettings) -> Outbound:
    """Make the outbound client that all guests of this process share, connections included. For use after the fork."""
    return Outbound(converted(settings, Settings))


def prepare(settings: OutboundSettings) -> None:
    """Read the CA certificates. Before the fork: it takes tens of milliseconds, and all workers share the result.

    Raises:
        ValueError: a file cannot be read or is not PEM, or a pattern is wrong; names the file or pattern.
    """
    warm(converted(settings, Settings))


def egress_for(spec: GuestSpec, settings: OutboundSettings) -> Egress:
    """Make the way of a binding's guest to outbound HTTP.

    Raises:
        ValueError: a pattern is wrong.
        ConfigError: the factory of `egress.transport` cannot be used.
    """
    outbound = functools.partial(outbound_for, settings)
    policy = policy_for(spec.binding, spec.allowed_outbound_hosts, spec.own_ports, settings)
    limits = converted(spec.limits, OutboundLimits, prefix="outbound_")
    if settings.transport is None:
        return Egress(outbound=outbound, policy=policy, limits=limits)
    from sandboxd.worker.transport import BindingSettings, make_adapter

    binding = BindingSettings(name=spec.binding, allowed_outbound_hosts=spec.allowed_outbound_hosts)
    adapter = make_adapter(settings.transport, binding)
    return TransportEgress(outbound=outbound, policy=policy, limits=limits, adapter=lambda: adapter)


def usage_of(records: Sequence[UsageRecord]) -> tuple[OutboundUsage, ...]:
    """Return the records of an invocation's outbound requests as the front gets them."""
    return tuple(
        OutboundUsage(rule=r.rule, outcome=r.outcome, duration_ns=r.duration_ns, denied=r.denied, target=r.target)
        for r in records[:RECORDS_MAX]
    )

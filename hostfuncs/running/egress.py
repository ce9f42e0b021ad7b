"""A guest's outbound HTTP: the client that it shares with other guests, its egress policy and its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostfuncs.account import Account
from hostfuncs.limits import Limits
from hostfuncs.outbound import Exchanges, Outbound, OutboundLimits, Policy
from hostfuncs.running.parking import ParkPoint

if TYPE_CHECKING:
    from hostfuncs.abi import InvocationState
    from hostfuncs.outbound.httpx_adapter import HttpxAdapter
    from hostfuncs.running.parking import Gate


@dataclass(frozen=True, kw_only=True, slots=True)
class Egress:
    """Opens the outbound requests of a guest's runs."""

    outbound: Callable[[], Outbound]
    """Returns the outbound client. Called when a run first needs it."""
    policy: Policy
    """The egress policy: which origins the guest may call."""
    limits: OutboundLimits

    def begin(self, deadline_ns: int, check: Callable[[], None], account: Account) -> Exchanges:
        """Open the requests of one run. See `Outbound.begin` for the parameters."""
        return self.outbound().begin(self.policy, self.limits, deadline_ns, check, account)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportEgress(Egress):
    """An egress whose requests go through a transport of httpx, if one is given."""

    adapter: Callable[[], HttpxAdapter | None]
    """Returns the transport. Called when a run makes its first request."""

    def begin(self, deadline_ns: int, check: Callable[[], None], account: Account) -> Exchanges:
        """Open the requests of one run. See Egress."""
        adapter = self.adapter()
        if adapter is None:
            return self.outbound().begin(self.policy, self.limits, deadline_ns, check, account)
        return adapter.begin(self.outbound(), self.policy, self.limits, deadline_ns, check, account)


@dataclass(frozen=True, kw_only=True, slots=True)
class AwaitingEgress(Egress):
    """The egress of a run that is parked before its first request. See `hostfuncs.running.parking`."""

    inner: Egress
    gate: Gate
    state: InvocationState

    def begin(self, deadline_ns: int, check: Callable[[], None], account: Account) -> Exchanges:
        """Open the requests of one run. See Egress. The deadline is that of the run's input."""
        self.gate.arrive(ParkPoint.REQUEST)
        return self.inner.begin(self.state.deadline_ns, check, account)


def awaiting(egress: Egress, gate: Gate, state: InvocationState) -> AwaitingEgress:
    """Return an egress that parks the run before it opens its first request.

    Parameters:
        egress: opens the requests.
        gate, state: the run's.
    """
    return AwaitingEgress(
        outbound=egress.outbound, policy=egress.policy, limits=egress.limits, inner=egress, gate=gate, state=state
    )


def outbound_limits(limits: Limits) -> OutboundLimits:
    """Return the outbound part of a guest's limits."""
    return OutboundLimits(
        requests=limits.outbound_requests,
        concurrency=limits.outbound_concurrency,
        header_bytes=limits.outbound_header_bytes,
        header_count=limits.outbound_header_count,
        body_bytes=limits.outbound_body_bytes,
    )

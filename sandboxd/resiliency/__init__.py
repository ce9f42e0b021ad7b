"""Dapr's resiliency policies: timeouts, retries and circuit breakers. Nothing here reads files or runs guests."""

from sandboxd.resiliency.breaker import Breaker, BreakerError, BreakerSettings, State
from sandboxd.resiliency.policies import Policy, Retry
from sandboxd.resiliency.trip import Trip, TripError

__all__ = ["Breaker", "BreakerError", "BreakerSettings", "Policy", "Retry", "State", "Trip", "TripError"]

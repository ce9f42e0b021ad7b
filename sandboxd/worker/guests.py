"""Guests as a worker holds them: loaded, linked and laid out before the fork, run once per invocation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hostfuncs.running.deadline import DeadlineThread
from hostfuncs.running.errors import GuestError
from hostfuncs.running.parking import Wait
from hostfuncs.wasip1.output import Echo
from sandboxd.limits import OutboundSettings
from sandboxd.wire.messages import GuestSpec, Invoke, Result
from sandboxd.worker.channel import Channel


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The parts of its worker that a guest uses."""

    deadlines: DeadlineThread
    outbound: OutboundSettings
    channel: Channel
    """The worker's socket, for invocations that stream."""
    echo: Echo | None = None
    """Is given the output of guests while they run; None in a worker, which sends it with the result."""


class Guest(Protocol):
    """A linked guest of either kind."""

    spec: GuestSpec

    @property
    def runs(self) -> bool:
        """Whether the guest has anything to call."""

    @property
    def calls_out(self) -> bool:
        """Whether the guest can make outbound requests."""

    def fault(self) -> str:
        """Return why its limits allow no run; empty if they do. Not after `prepare`; runs no guest code."""

    def prepare(self, services: Services) -> None:
        """Lay out what all invocations share. Once, before the fork; runs no guest code and starts no thread."""

    def run(self, invoke: Invoke, wait: Wait | None = None) -> Result:
        """Run one invocation to its end. Raises nothing for anything a guest does.

        Parameters:
            invoke: the invocation.
            wait: parks the run when the guest needs its input. See `hostfuncs.running.parking`.
        """


__all__ = ["Guest", "GuestError", "Services"]

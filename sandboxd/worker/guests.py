"""Guests as a worker holds them: loaded, linked and laid out before the fork, run once per invocation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import wasmtime

from sandboxd.limits import EngineSettings
from sandboxd.wire.messages import GuestSpec, Invoke, OutboundSettings, Result

if TYPE_CHECKING:
    from sandboxd.worker.deadline import Watch
    from sandboxd.worker.link import Link


class GuestError(Exception):
    """A guest cannot be loaded; the text is for the operator and names the cause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """What a guest uses of its worker."""

    engine: wasmtime.Engine
    watch: Watch
    outbound: OutboundSettings
    link: Link
    """The worker's socket, for invocations that stream."""
    stack_bytes: int = EngineSettings().wasm_stack_bytes
    """What the engine gives guests, for messages."""


class Guest(Protocol):
    """A linked guest of either kind."""

    spec: GuestSpec

    def prepare(self, services: Services) -> None:
        """Once, before the fork: lay out what all invocations share. Runs no guest code and starts no thread."""

    def run(self, invoke: Invoke) -> Result:
        """One invocation, to its end. Raises nothing for anything a guest does."""


def load(engine: wasmtime.Engine, spec: GuestSpec) -> Guest:
    """Deserialise and link a guest. Before the fork; runs no guest code and starts no thread.

    Parameters:
        engine: from `sandboxd.worker.engine.build`.
        spec: its artifact must come from the private store: loading one is executing it.

    Raises:
        GuestError: the artifact does not load, or the guest imports what this host does not have.
    """
    if spec.kind == "module":
        from sandboxd.worker.invocation import CoreGuest

        return CoreGuest(engine, spec)
    if spec.kind == "component":
        from sandboxd.worker.component import ComponentGuest

        return ComponentGuest(engine, spec)
    raise GuestError(f"a guest of kind {spec.kind!r} is neither a module nor a component")

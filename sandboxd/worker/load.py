"""Loading guests: from a compiled artifact to something a worker can run."""

from __future__ import annotations

import wasmtime

from sandboxd.limits import EngineSettings
from sandboxd.wire.messages import GuestSpec
from sandboxd.worker.guests import Guest, GuestError


def load(engine: wasmtime.Engine, spec: GuestSpec, settings: EngineSettings | None = None) -> Guest:
    """Deserialise and link a guest. Before the fork; runs no guest code and starts no thread.

    Parameters:
        engine: from `sandboxd.worker.engine.build`.
        spec: its artifact must come from the private store: loading one is executing it.
        settings: what the engine was built with.

    Raises:
        GuestError: the artifact does not load, or the guest imports what this host does not have.
    """
    settings = settings or EngineSettings()
    if spec.kind == "module":
        from sandboxd.worker.core import CoreGuest

        return CoreGuest(engine, spec, settings)
    if spec.kind == "component":
        from sandboxd.worker.component import ComponentGuest

        return ComponentGuest(engine, spec, settings)
    raise GuestError(f"a guest of kind {spec.kind!r} is neither a module nor a component")

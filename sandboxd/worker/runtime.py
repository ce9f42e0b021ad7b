"""Everything a worker process has beside its socket: the deadline thread and the started guests."""

import sys
import traceback
from collections.abc import Sequence

import msgspec
import wasmtime

from sandboxd.limits import EngineSettings
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Invoke, OutboundSettings, Result
from sandboxd.worker.deadline import Watch
from sandboxd.worker.guests import Guest, Services
from sandboxd.worker.link import Link


class Runtime:
    """Runs invocations, one at a time. Made in the worker, after the fork.

    Parameters:
        engine: the guests'.
        guests: as loaded, None where loading failed; `Invoke.guest` is an index into it.
        outbound: the server's settings for outbound HTTP.
        settings: what the engine was built with.
        link: the worker's socket; without it nothing can stream.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        guests: Sequence[Guest | None],
        outbound: OutboundSettings,
        settings: EngineSettings | None = None,
        link: Link | None = None,
    ) -> None:
        self._watch = Watch(engine)
        self._guests = guests
        stack_bytes = (settings or EngineSettings()).wasm_stack_bytes
        services = Services(engine=engine, watch=self._watch, outbound=outbound, stack_bytes=stack_bytes, link=link)
        for guest in guests:
            if guest is not None:
                guest.start(services)
        # Loaded only along with guests that make requests.
        egress = sys.modules.get("sandboxd.worker.egress")
        self._outbound = egress.outbound_for(outbound) if egress is not None else None

    def __repr__(self) -> str:
        return f"<Runtime guests={len(self._guests)} {self._watch!r}>"

    def run(self, invoke: Invoke) -> Result:
        """Run a guest once.

        Returns:
            How it ended; `retire` is set if this process should not run another.
        """
        guest = self._guests[invoke.guest] if 0 <= invoke.guest < len(self._guests) else None
        if guest is None:
            return Result(id=invoke.id, outcome=Outcome.HOST_FAILED, detail="the guest is not loaded")
        try:
            result = guest.run(invoke)
        except Exception:  # noqa: BLE001 - whatever went wrong in here, the caller gets an answer and the process goes
            print(
                f"invocation {invoke.id} of {guest.spec.binding}:", traceback.format_exc(), file=sys.stderr, flush=True
            )
            return Result(id=invoke.id, outcome=Outcome.HOST_FAILED, detail="internal error", retire=True)
        if self._outbound is not None and self._outbound.looking_up:
            # Name look-ups cannot be interrupted, and as many threads as there are could be held by this guest's.
            msgspec.structs.force_setattr(result, "retire", True)
        return result

    def interrupt(self, invocation: int) -> None:
        """End an invocation as cancelled, if it is the one that runs; from any thread."""
        self._watch.cancel(invocation)

    def close(self) -> None:
        """End the deadline thread."""
        self._watch.close()

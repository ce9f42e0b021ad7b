"""Everything a worker process has: its socket, the deadline thread and the guests, ready to run."""

from __future__ import annotations

import socket
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
    """Runs invocations, one at a time.

    Made before the fork, so that what workers have in common is laid out once; started in the worker.

    Parameters:
        engine: the guests'.
        guests: as loaded, None where loading failed; `Invoke.guest` is an index into it.
        outbound: the server's settings for outbound HTTP.
        settings: what the engine was built with.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        guests: Sequence[Guest | None],
        outbound: OutboundSettings,
        settings: EngineSettings | None = None,
    ) -> None:
        self._watch = Watch(engine)
        self._guests = guests
        self.link = Link()
        """To the front, for a worker that has one."""
        stack_bytes = (settings or EngineSettings()).wasm_stack_bytes
        services = Services(
            engine=engine, watch=self._watch, outbound=outbound, link=self.link, stack_bytes=stack_bytes
        )
        for guest in guests:
            if guest is not None:
                guest.prepare(services)
        # Loaded only along with guests that make requests.
        egress = sys.modules.get("sandboxd.worker.egress")
        self._outbound = egress.outbound_for(outbound) if egress is not None else None

    def __repr__(self) -> str:
        return f"<Runtime guests={len(self._guests)} {self._watch!r}>"

    def start(self, channel: socket.socket | None = None) -> Runtime:
        """Start the deadline thread. In the process that runs guests: after the fork, where there is one.

        Parameters:
            channel: to the front; without one no invocation may stream.

        Returns:
            itself.

        Raises:
            RuntimeError: the system gives no thread.
        """
        self._watch.start()
        if channel is not None:
            self.link.connect(channel)
        return self

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

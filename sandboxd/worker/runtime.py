"""The parts of a worker process: its socket, the deadline thread and the guests, ready to run."""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Sequence
from time import thread_time_ns
from typing import TYPE_CHECKING, Final

import msgspec
import wasmtime

from hostfuncs import texts
from hostfuncs.running.deadline import DeadlineThread
from sandboxd.limits import OutboundSettings
from sandboxd.outcome import Outcome
from sandboxd.wire.messages import Invoke, Result
from sandboxd.worker.channel import Channel
from sandboxd.worker.guests import Guest, Services

if TYPE_CHECKING:
    from hostfuncs.running.parking import Wait
    from hostfuncs.wasip1.output import Echo
    from sandboxd.broker.dialer import BrokerDialer


LONG_NS: Final = 1_000_000
"""After a run that took so long, the next one's processor time is measured."""
MEASURED_ONE_IN: Final = 16
"""Of shorter runs, the processor time of one in so many is measured: looking at that clock is a system call, two
for each measurement. The front takes the others to be alike."""


class Runtime:
    """Runs invocations, one at a time.

    It is made before the fork, so that workers share what they have in common, and started in the worker.

    Parameters:
        engine: the engine of the guests.
        guests: as loaded; None where loading failed. `Invoke.guest` is an index into it.
        outbound: the server's settings for outbound HTTP.
        echo: is given the output of guests while they run.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        guests: Sequence[Guest | None],
        outbound: OutboundSettings,
        *,
        echo: Echo | None = None,
    ) -> None:
        self._deadlines = DeadlineThread(engine)
        self._guests = guests
        self._unmeasured = [0] * len(guests)
        """For each guest, how many runs are still to come before the next whose processor time is measured."""
        self.channel = Channel()
        """The socket to the front, once `start` was given one."""
        services = Services(deadlines=self._deadlines, outbound=outbound, channel=self.channel, echo=echo)
        for guest in guests:
            if guest is not None:
                guest.prepare(services)
        # Loaded only along with guests that make requests.
        egress = sys.modules.get("sandboxd.worker.egress")
        self._outbound = egress.outbound_for(outbound) if egress is not None else None
        self._dialer: BrokerDialer | None = egress.BrokerDialer() if egress is not None else None

    def __repr__(self) -> str:
        return f"<Runtime guests={len(self._guests)} {self._deadlines!r}>"

    def start(self, channel: socket.socket | None = None, broker: socket.socket | None = None) -> Runtime:
        """Start the deadline thread, in the process that runs guests: after the fork if there is one.

        Parameters:
            channel: the socket to the front. Without one no invocation may stream.
            broker: the socket to the egress broker. Without one, this process connects by itself.

        Returns:
            This object.

        Raises:
            RuntimeError: the system gives no thread.
        """
        self._deadlines.start()
        if channel is not None:
            self.channel.connect(channel)
        if broker is not None:
            assert self._outbound is not None
            assert self._dialer is not None
            self._dialer.connect(broker)
            self._outbound.dialer = self._dialer
        return self

    def pause(self) -> None:
        """End the deadline thread, so that this process can be forked. `start` starts another one."""
        self._deadlines.close()

    def note_invocation(self, id: int) -> None:
        """Take note of the invocation for which this process connects from now on."""
        if self._dialer is not None:
            self._dialer.invocation = id

    def calls_out(self, guest: int) -> bool:
        """Return whether a guest can make outbound requests."""
        found = self._guests[guest]
        return found is not None and found.calls_out

    def run(self, invoke: Invoke, wait: Wait | None = None) -> Result:
        """Run a guest once.

        Parameters:
            invoke: the invocation.
            wait: called when the guest needs its input, which is then not that of the invocation. None gives the guest
                its input from the beginning.

        Returns:
            How it ended; `retire` is set if this process should not run another.
        """
        guest = self._guests[invoke.guest] if 0 <= invoke.guest < len(self._guests) else None
        if guest is None:
            return Result(id=invoke.id, outcome=Outcome.HOST_FAILED, detail="the guest is not loaded")
        if self._dialer is not None:
            self._dialer.invocation = invoke.id
        cut = texts.cuts.total
        unmeasured = self._unmeasured[invoke.guest]
        began_ns = 0 if unmeasured else thread_time_ns()
        try:
            result = guest.run(invoke) if wait is None else guest.run(invoke, wait)
        except Exception:  # noqa: BLE001 - whatever went wrong in here, the caller gets an answer and the process goes
            print(
                f"invocation {invoke.id} of {guest.spec.binding}:",
                texts.ending(traceback.format_exc().encode("utf-8", "replace")),
                file=sys.stderr,
                flush=True,
            )
            return Result(id=invoke.id, outcome=Outcome.HOST_FAILED, detail="internal error", retire=True)
        # A child that was forked meanwhile has a clock of its own, and another end.
        if not unmeasured and wait is None:
            msgspec.structs.force_setattr(result, "cpu_ns", thread_time_ns() - began_ns)
        self._unmeasured[invoke.guest] = 0 if result.guest_ns >= LONG_NS else (unmeasured or MEASURED_ONE_IN) - 1
        if len(result.detail) > texts.PART_BYTES // 4:
            msgspec.structs.force_setattr(result, "detail", texts.bounded(result.detail))
        if texts.cuts.total != cut:
            msgspec.structs.force_setattr(result, "texts_cut", texts.cuts.total - cut)
        if self._outbound is not None and self._outbound.looking_up:
            # Name look-ups cannot be interrupted. Those of this guest could hold all threads that there are for them.
            msgspec.structs.force_setattr(result, "retire", True)
        return result

    def close(self) -> None:
        """End the deadline thread."""
        self._deadlines.close()

"""One run of a guest of any kind: the order in which a store is made, limited, entered and deleted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import monotonic_ns
from typing import TYPE_CHECKING

import wasmtime

from hostfuncs.abi import InvocationState, capi
from hostfuncs.limits import EngineSettings, Limit, Limits
from hostfuncs.running.deadline import DeadlineThread
from hostfuncs.running.endings import Ending, LimitNames, Sentences
from hostfuncs.running.engine import TABLES

if TYPE_CHECKING:
    from hostfuncs.outbound import UsageRecord
    from hostfuncs.running.egress import Egress
    from hostfuncs.running.parking import Input


class GuestRunner(ABC):
    """A linked guest. It runs one invocation at a time, each in a fresh store.

    Order of calls: the constructor and `prepare`, once, before any fork; then, for each run, the subclass's `begin` and
    `run`. The results of a run can be read until the next `begin`. Two threads must not use it at once.

    Parameters:
        engine: from `hostfuncs.running.engine`.
        limits: the limits of each run.
        instances: the most core instances that the guest may have at once.
        memories: the most linear memories that the guest may have at once.
        settings: the settings of the engine.
        names: the names of limits in messages.
    """

    # Without __slots__, Python would store so many attributes out of line, and reading them would take longer.
    __slots__ = (
        "_ceilings",
        "_deadlines",
        "_ended_ns",
        "_ends_process",
        "_engine",
        "_engine_address",
        "_file_limit",
        "_holds_something",
        "_instantiated_ns",
        "_refused",
        "_sentences",
        "guest_ns",
        "instantiate_ns",
        "limits",
        "memory_bytes",
        "state",
        "usage",
    )

    def __init__(
        self,
        engine: wasmtime.Engine,
        limits: Limits,
        *,
        instances: int,
        memories: int,
        settings: EngineSettings,
        names: LimitNames,
    ) -> None:
        self.limits = limits
        self._engine = engine
        self._ceilings = (limits.memory_bytes, limits.table_elements, instances, TABLES, memories)
        self._engine_address = capi.address_of(engine)
        self.state = InvocationState()
        """The run as host functions see it."""
        self._deadlines: DeadlineThread
        self._sentences = Sentences(limits, settings.wasm_stack_bytes, names)
        self.instantiate_ns = 0
        """The nanoseconds that the instantiation took in the last run."""
        self.guest_ns = 0
        """The nanoseconds that the guest took in the last run."""
        self.memory_bytes = 0
        """The size of a core guest's memory at the end of the last run."""
        self.usage: Sequence[UsageRecord] = ()
        """The outbound requests of the last run."""
        self._instantiated_ns = self._ended_ns = 0
        self._holds_something = True
        """Whether `_release` has anything to do."""
        self._file_limit: Limit | None = None
        """The limit on files that refused the last run something; None if none did."""
        self._ends_process = False
        """Whether the process ends with this run. Its store is then left to the kernel."""
        self._refused: Ending | None = None
        """The ending of every run, if the limits rule out any run."""

    @property
    @abstractmethod
    def imports_http(self) -> bool:
        """Whether the guest can make outbound HTTP requests; `prepare` then needs an egress."""

    @abstractmethod
    def prepare(self, deadlines: DeadlineThread, egress: Egress | None) -> None:
        """Lay out all that the runs share. This runs no guest code and starts no thread.

        Parameters:
            deadlines: ends the runs that compute too long. Its thread must run before the first run.
            egress: outbound HTTP, for guests that make requests.
        """

    @abstractmethod
    def _enter(self, context: int) -> Ending | None:
        """Make the instance, set `_instantiated_ns`, and call the guest.

        Parameters:
            context: address of the store's context.

        Returns:
            How the run ended; None if wasmtime reports that it failed.
        """

    @abstractmethod
    def _failed(self) -> Ending:
        """Return the ending of a run that wasmtime reports as failed. The store is deleted already."""

    @abstractmethod
    def _release(self) -> Sequence[UsageRecord]:
        """Release everything that the run held, and return its outbound requests. The store is deleted already."""

    def run(self, deadline_ns: int) -> Ending:
        """Run the guest once, as `begin` set it up.

        Parameters:
            deadline_ns: CLOCK_MONOTONIC instant.

        Returns:
            How the run ended. Nothing that a guest does raises an exception.

        Raises:
            BaseException: a KeyboardInterrupt, SystemExit or the like that arrived in a host function. It is raised
                after everything has been released.
        """
        state, deadlines = self.state, self._deadlines
        began = monotonic_ns()
        state.begin(deadline_ns)
        if began >= deadline_ns or self._refused is not None:
            self.instantiate_ns = self.guest_ns = self.memory_bytes = 0
            self.usage = self._release()
            return self._refused or self._sentences.deadline_exceeded
        # The thread is armed before the store has an epoch deadline. Otherwise a tick in between could be lost.
        deadlines.arm(state, deadline_ns)
        try:
            ending = self._in_store()
        finally:
            deadlines.disarm()
            if self._holds_something:
                self.usage = self._release()
        self.instantiate_ns = self._instantiated_ns - began
        self.guest_ns = self._ended_ns - self._instantiated_ns
        if ending is None:
            ending = self._failed()
        if state.interrupt is not None:
            interrupt, state.interrupt = state.interrupt, None
            raise interrupt
        return ending

    def _in_store(self) -> Ending | None:
        """Make a store, limit it, enter it and delete it. Set `_instantiated_ns`, `_ended_ns` and `memory_bytes`.

        Returns:
            As `_enter`.
        """
        state = self.state
        store = capi.store_new(self._engine_address, None, None)
        try:
            context = capi.store_context(store)
            capi.store_limiter(store, *self._ceilings)
            capi.store_epoch_deadline_callback(store, self._deadlines.callback_address, None, None)
            capi.context_set_epoch_deadline(context, 1)
            # This is `state.enter`, without the cost of a call.
            state.context = context
            state.instance = 0
            ending = self._enter(context)
            self._ended_ns = monotonic_ns()
            if ending is None:
                self.memory_bytes = state.memory.size()
        finally:
            state.finish()
            if not self._ends_process:
                capi.store_delete(store)
        return ending

    def _resume(self, given: Input) -> None:
        """Go on with a parked run under the deadline of its input. See `hostfuncs.running.parking`."""
        deadline_ns = self.state.deadline_ns = given.deadline_ns
        self._ends_process = given.ends_process
        # A copy of the process has no deadline thread yet.
        self._deadlines.start()
        self._deadlines.arm(self.state, deadline_ns)
        self._instantiated_ns = monotonic_ns()
        self.state.check()

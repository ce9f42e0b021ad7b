"""What host functions know about the invocation they serve."""

import threading
import time
import traceback
from collections.abc import Callable

from hostfuncs.abi import capi
from hostfuncs.abi.ending import Cancelled, DeadlineExceeded, Fault, GuestEnded, HostTrap
from hostfuncs.abi.memory import GuestMemory

_TRAP_TEXT = b"ended by the host"


def _report(error: BaseException) -> str:
    """Of a fault of the host. Where memory has run out, there may be none for the report either."""
    try:
        return "".join(traceback.format_exception(error))
    except MemoryError:
        return type(error).__name__


def _never() -> bool:
    return False


class InvocationState:
    """The one invocation a set of linked host functions serves at a time.

    Made once per linked guest and used again for each invocation: `begin`, the guest runs, `finish`. Host functions
    hold a reference to it; there is no look-up per call. Not for use by two threads at once.

    Parameters:
        cancelled: says whether the caller went away; asked by blocking host calls. Cheap, never raises.
    """

    __slots__ = (
        "_cancelled",
        "_wake",
        "callbacks",
        "context",
        "deadline_ns",
        "ended",
        "failure",
        "inside_guest_call",
        "instance",
        "interrupt",
        "memory",
        "serial",
    )

    def __init__(self, cancelled: Callable[[], bool] = _never) -> None:
        self._cancelled = cancelled
        self._wake = threading.Event()
        self.callbacks: list[object] = []
        """Native callbacks of the host functions that serve this. They must live as long as a guest could call them."""
        self.memory = GuestMemory()
        self.serial = 0
        """Counts invocations, so that what was looked up for one is not used in the next."""
        self.context = 0
        """Address of the store's context; 0 between invocations."""
        self.instance = 0
        """Address of the `wasmtime_instance_t`; 0 until it is made, which start functions run before."""
        self.deadline_ns = 0
        """CLOCK_MONOTONIC instant."""
        self.ended: GuestEnded | None = None
        """Why the host ended the guest; None while it did not."""
        self.failure: str | None = None
        """Traceback of an exception that is a fault of the host. For the log only."""
        self.interrupt: BaseException | None = None
        """A SystemExit, KeyboardInterrupt or the like that arrived in a host function, to be raised after clean-up."""
        self.inside_guest_call = False
        """A host function has called back into the guest (see `hostfuncs.abi.guestcall`)."""

    def __repr__(self) -> str:
        if not self.context:
            return "<InvocationState idle>"
        return f"<InvocationState running, ended={self.ended!r}, failed={self.failure is not None}>"

    def begin(self, deadline_ns: int, cancelled: Callable[[], bool] | None = None) -> None:
        """Start anew.

        Parameters:
            deadline_ns: CLOCK_MONOTONIC instant in nanoseconds.
            cancelled: replaces the one given before.
        """
        self.serial += 1
        if self._wake.is_set():
            self._wake.clear()
        self.deadline_ns = deadline_ns
        self.ended = None
        self.failure = None
        self.interrupt = None
        self.inside_guest_call = False
        if cancelled is not None:
            self._cancelled = cancelled

    def enter(self, context: int, instance: int) -> None:
        """The store exists: host functions may be called from now on. Addresses valid until `finish`.

        Parameters:
            instance: 0 while there is none; set `instance` once there is.
        """
        self.context = context
        self.instance = instance

    def finish(self) -> None:
        """The guest will run no more. Call before its store is deleted."""
        self.memory.detach()
        self.context = 0
        self.instance = 0

    def sleep(self, duration_ns: int) -> None:
        """Sleep, but not beyond the deadline, and not after the caller went away.

        Raises:
            Cancelled, DeadlineExceeded: that came first.
        """
        until = time.monotonic_ns() + duration_ns
        limit = min(until, self.deadline_ns)
        while (left := limit - time.monotonic_ns()) > 0:
            if self._wake.wait(left / 1e9):
                break
        self.check()

    def wake(self) -> None:
        """End a sleep early, from another thread: there is something for `check` to see."""
        self._wake.set()

    def check(self) -> None:
        """For host functions that take long: is there still someone to work for?

        Raises:
            Cancelled: the caller went away.
            DeadlineExceeded: the deadline has passed.
        """
        if self._cancelled():
            raise Cancelled
        if time.monotonic_ns() >= self.deadline_ns:
            raise DeadlineExceeded

    def end(self, error: BaseException) -> int:
        """Record why the guest is ended, and make the trap that ends it.

        Returns:
            The address of a new `wasm_trap_t`, owned by whoever gets it.
        """
        self.note(error)
        pointer: int = capi.trap_new(_TRAP_TEXT, len(_TRAP_TEXT))
        return pointer

    def note(self, error: BaseException) -> None:
        """Record why the guest is ended. The first reason counts."""
        if self.ended is None and self.failure is None:
            if isinstance(error, GuestEnded):
                self.ended = error
            elif isinstance(error, Fault):
                self.ended = HostTrap(str(error))
            else:
                self.failure = _report(error)
        if not isinstance(error, Exception) and self.interrupt is None:
            self.interrupt = error
        # The frames of the host function must not outlive the invocation.
        error.__traceback__ = None

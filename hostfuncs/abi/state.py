"""The state of a run that host functions use: the memory, the deadline, and the reason why the guest was ended."""

import time
import traceback

from hostfuncs import texts
from hostfuncs.abi import capi
from hostfuncs.abi.memory import GuestMemory
from hostfuncs.ending import Cancelled, DeadlineExceeded, Fault, GuestEnded, HostTrap, ProcExit

_TRAP_TEXT = b"ended by the host"

SLEEP_SLICE_NS = 100_000_000
"""Nanoseconds after which a sleeping guest checks whether a signal handler wants the run to end."""


def _report(error: BaseException) -> str:
    """Return the traceback of a host fault, or only the exception's name if there is no memory for more."""
    try:
        return texts.ending("".join(traceback.format_exception(error)).encode("utf-8", "replace"))
    except MemoryError:
        return type(error).__name__


class InvocationState:
    """The run that a set of linked host functions serves.

    It is made once for a linked guest and used again for each run: `begin`, `enter`, the guest runs, `finish`. Host
    functions hold a reference to it, so that a call needs no look-up. Two threads must not use it at once.
    """

    __slots__ = (
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

    def __init__(self) -> None:
        self.callbacks: list[object] = []
        """Native callbacks of the host functions that serve this run. They must outlive every guest linked to them."""
        self.memory = GuestMemory()
        self.serial = 0
        """Number of runs so far. A cached look-up that belongs to an earlier run is recognised by it."""
        self.context = 0
        """Address of the store's context; 0 between runs."""
        self.instance = 0
        """Address of the `wasmtime_instance_t`; 0 until it is made. Start functions run before that."""
        self.deadline_ns = 0
        """CLOCK_MONOTONIC instant."""
        self.ended: GuestEnded | None = None
        """Why the host ended the guest; None if it did not."""
        self.failure: str | None = None
        """Traceback of an exception that is a fault of the host. For the log only."""
        self.interrupt: BaseException | None = None
        """A KeyboardInterrupt, SystemExit or the like that arrived during the run. The code that takes it from here
        raises it after the clean-up. `begin` does not reset it, so that one that arrives just before is not lost."""
        self.inside_guest_call = False
        """Whether a host function has called back into the guest (see `hostfuncs.abi.guestcall`)."""

    def __repr__(self) -> str:
        if not self.context:
            return "<InvocationState idle>"
        return f"<InvocationState running, ended={self.ended!r}, failed={self.failure is not None}>"

    def begin(self, deadline_ns: int) -> None:
        """Start a new run.

        Parameters:
            deadline_ns: CLOCK_MONOTONIC instant in nanoseconds.
        """
        self.serial += 1
        self.deadline_ns = deadline_ns
        self.ended = None
        self.failure = None
        self.inside_guest_call = False

    def enter(self, context: int, instance: int) -> None:
        """Take the addresses of the new store, which are valid until `finish`. Host functions may be called from now
        on.

        Parameters:
            context: address of the store's context.
            instance: address of the instance; 0 while there is none. Set `instance` once there is.
        """
        self.context = context
        self.instance = instance

    def finish(self) -> None:
        """End the run. The guest must not run again. Call this before its store is deleted."""
        self.memory.detach()
        self.context = 0
        self.instance = 0

    def sleep(self, duration_ns: int) -> None:
        """Sleep, but not beyond the deadline.

        Raises:
            DeadlineExceeded: the deadline came first.
            Cancelled: a signal handler wants the run to end.
        """
        until = min(time.monotonic_ns() + duration_ns, self.deadline_ns)
        while (left := until - time.monotonic_ns()) > 0 and self.interrupt is None:
            time.sleep(min(left, SLEEP_SLICE_NS) / 1e9)
        self.check()

    def check(self) -> None:
        """Raise if a host function that takes long should stop.

        Raises:
            DeadlineExceeded: the deadline has passed.
            Cancelled: a signal handler wants the run to end.
        """
        if self.interrupt is not None:
            raise Cancelled
        if time.monotonic_ns() >= self.deadline_ns:
            raise DeadlineExceeded

    def end(self, error: BaseException) -> int:
        """Record why the guest is ended, and make the trap that ends it.

        Returns:
            The address of a new `wasm_trap_t`. The receiver owns it.
        """
        self.note(error)
        pointer: int
        if isinstance(error, ProcExit):
            # One with a text comes back as an error, which takes wasmtime 3 us more.
            pointer = capi.trap_new_code(capi.TRAP_INTERRUPT)
        else:
            pointer = capi.trap_new(_TRAP_TEXT, len(_TRAP_TEXT))
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
        # The traceback would keep the frames of the host function alive beyond the run.
        error.__traceback__ = None

"""What the WASI 0.2 functions of a component work on: the running invocation's handles, streams, clocks and limits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hostfuncs.abi import capi as abi
from hostfuncs.abi.ending import DeadlineExceeded, HostTrap
from hostfuncs.abi.state import InvocationState
from hostfuncs.outbound import DeadlineExceeded as OutboundDeadlineExceeded
from hostfuncs.outbound import Exchanges, RequestBody
from hostfuncs.wasip1.sources import Sources, SystemSources
from hostfuncs.wasip2.layout import Scratch
from hostfuncs.wasip2.stdio import Stdio
from hostfuncs.wasip2.table import Table

if TYPE_CHECKING:
    from hostfuncs.wasip2.http_incoming import Responder

_ERROR_TEXT = b"ended by the host"
_CHECK_EVERY_NS = 50_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What one invocation is given. All of it came from outside except the limits.

    Attributes:
        args: argv, the program's name first.
        env: environment, in order; names are unique.
    """

    args: tuple[bytes, ...] = ()
    env: tuple[tuple[bytes, bytes], ...] = ()


class Inlet(Protocol):
    """Something outside that brings what a guest may wait for, through a descriptor. Besides outbound requests."""

    def fileno(self) -> int:
        """Readable when there is something to `pump`."""
        ...

    def pump(self) -> None:
        """Take in what has come, without waiting. May end the guest by raising GuestEnded."""
        ...

    def wait(self, timeout_ns: int) -> None:
        """Wait until the descriptor is readable, at most so long."""
        ...


class BeginExchanges(Protocol):
    """Opens the invocation's outbound requests; called at most once per invocation, when the guest first asks."""

    def __call__(self) -> Exchanges: ...


def _no_exchanges() -> Exchanges:
    raise RuntimeError("this host was set up without outbound HTTP")


class Host:
    """State of one linked component, for one invocation at a time.

    Life: `begin`, `enter` once the store exists, the guest runs, `finish`.

    Parameters:
        state: shared with the rest of the worker: deadline, cancellation, and why the guest was ended.
        entries: host objects a guest may hold at once, at least 1.
    """

    def __init__(self, state: InvocationState, *, entries: int) -> None:
        self.state = state
        self.context = 0
        self.scratch = Scratch()
        self._entries = entries
        self.table = Table(entries)
        self.call = Call()
        self.stdio = Stdio()
        self.sources: Sources = SystemSources()
        self._begin_exchanges: BeginExchanges = _no_exchanges
        self._exchanges: Exchanges | None = None
        self._responder: Responder | None = None
        self._inlet: Inlet | None = None
        self.request_bodies: list[RequestBody] = []
        """Bodies of requests that are not known to have ended."""

    def __repr__(self) -> str:
        return f"<Host {self.table!r} {self.state!r}>"

    def begin(
        self,
        call: Call,
        *,
        stdio: Stdio,
        sources: Sources,
        exchanges: BeginExchanges = _no_exchanges,
        responder: "Responder | None" = None,
        inlet: Inlet | None = None,
    ) -> None:
        """Start anew. `state.begin` is the caller's to call.

        Parameters:
            call: arguments and environment.
            stdio: the standard streams.
            sources: clocks and randomness.
            exchanges: opens outbound HTTP; without it a guest that tries is a fault of the host.
            responder: takes the answer of a guest that is called with a request.
            inlet: brings what `stdio` or the request's body read, if they do not have it all.
        """
        self.table = Table(self._entries)
        self.call = call
        self.stdio = stdio
        self.sources = sources
        self._begin_exchanges = exchanges
        self._exchanges = None
        self._responder = responder
        self._inlet = inlet
        self.request_bodies = []

    def enter(self, context: int) -> None:
        """The store exists: host functions may be called from now on.

        Parameters:
            context: address of the store's context, valid until `finish`.
        """
        self.context = context

    def finish(self) -> None:
        """The guest will run no more; what it left behind is let go. Outbound requests are closed by their owner."""
        self.context = 0
        self._exchanges = None
        for entry in self.table.clear():
            entry.parent = None

    @property
    def exchanges(self) -> Exchanges:
        """The invocation's outbound requests."""
        if self._exchanges is None:
            self._exchanges = self._begin_exchanges()
            if self._inlet is not None:
                self._exchanges.attend(self._inlet.fileno(), self._inlet.pump)
        return self._exchanges

    @property
    def responder(self) -> "Responder":
        """Where the answer to the request goes.

        Raises:
            HostTrap: the guest was not called with a request.
        """
        if self._responder is None:
            raise HostTrap("wasi:http/types: there is no request to respond to")
        return self._responder

    def fail(self, error: BaseException) -> int:
        """Record why the guest is ended, and make the error that ends it. Never raises.

        Returns:
            Address of a new `wasmtime_error_t`, owned by whoever gets it.
        """
        self.state.note(error)
        pointer: int = abi.error_new(_ERROR_TEXT)
        return pointer

    def turn(self) -> None:
        """Let outbound requests move without waiting, so that a guest that only ever asks gets an answer some time."""
        if self._inlet is not None:
            self._inlet.pump()
        if self._exchanges is not None:
            self._exchanges.turn()

    def wait(self, ready: Callable[[], bool], due_ns: int | None = None) -> None:
        """Block until something holds.

        Parameters:
            ready: asked before and after each sleep. Cheap.
            due_ns: CLOCK_MONOTONIC instant at which to give up waiting; None waits on.

        Raises:
            DeadlineExceeded: the invocation's deadline came first.
            Cancelled: nobody waits for the invocation any more.
        """
        if self._exchanges is not None:
            try:
                self._exchanges.wait(ready, due_ns)
            except OutboundDeadlineExceeded:
                raise DeadlineExceeded from None
            return
        while not ready():
            now = time.monotonic_ns()
            if due_ns is not None and now >= due_ns:
                return
            left = (self.state.deadline_ns if due_ns is None else due_ns) - now
            if self._inlet is None:
                # Nothing but time can change anything: no request is under way.
                self.state.sleep(left)
            else:
                self._inlet.wait(max(0, min(left, self.state.deadline_ns - now, _CHECK_EVERY_NS)))
                self._inlet.pump()
                self.state.check()

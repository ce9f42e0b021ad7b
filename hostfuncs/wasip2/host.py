"""The state that the WASI 0.2 functions work on: handles, streams, clocks and limits of the running invocation."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hostfuncs.abi import capi as abi
from hostfuncs.abi.state import InvocationState
from hostfuncs.account import Account
from hostfuncs.ending import HostTrap
from hostfuncs.limits import Limit
from hostfuncs.outbound import Exchanges
from hostfuncs.wasip1.sources import Sources, SystemSources
from hostfuncs.wasip2.layout import Scratch
from hostfuncs.wasip2.responder import Responder
from hostfuncs.wasip2.stdio import Stdio
from hostfuncs.wasip2.table import Table

if TYPE_CHECKING:
    from hostfuncs.files import Files

_ERROR_TEXT = b"ended by the host"
_CHECK_EVERY_NS = 50_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """The input of one invocation: everything that comes from outside.

    Attributes:
        args: argv, the program's name first.
        env: the environment, in order; names are unique.
    """

    args: tuple[bytes, ...] = ()
    env: tuple[tuple[bytes, bytes], ...] = ()


class InputPump(Protocol):
    """Brings input that a guest may wait for, through a descriptor. Outbound requests do not come through it."""

    def fileno(self) -> int:
        """Return the descriptor. It is readable when there is input to `pump`."""
        ...

    def pump(self) -> None:
        """Take in the input that has arrived, without waiting. Raises GuestEnded to end the guest."""
        ...

    def wait(self, timeout_ns: int) -> None:
        """Wait until the descriptor is readable, at most `timeout_ns` nanoseconds."""
        ...


class BeginExchanges(Protocol):
    """Opens the invocation's outbound requests; called at most once per invocation, when the guest first asks."""

    def __call__(self) -> Exchanges: ...


def _no_exchanges() -> Exchanges:
    raise RuntimeError("this host was set up without outbound HTTP")


class Host:
    """The state of one linked component, for one invocation at a time.

    Order of calls: `begin`; `enter` once the store exists; the guest runs; `finish`.

    Parameters:
        state: the invocation's deadline, cancellation and reason to end, shared with the rest of the worker.
        entries: host resources that a guest may hold at once, at least 1.
        memory_bytes: bytes that the host may hold for a guest at once.
        new_files: opens the files of an invocation; None for guests without files.
    """

    def __init__(
        self,
        state: InvocationState,
        *,
        entries: int,
        memory_bytes: int,
        new_files: "Callable[[], Files] | None" = None,
    ) -> None:
        self._new_files = new_files
        self._files: Files | None = None
        self.state = state
        self.context = 0
        self.scratch = Scratch()
        self._entries = entries
        self._memory_bytes = memory_bytes
        self.account = Account(memory_bytes)
        """Counts the bytes that are held for the running guest."""
        self.table = Table(entries, self.account)
        self.call = Call()
        self.stdio = Stdio()
        self.sources: Sources = SystemSources()
        self._begin_exchanges: BeginExchanges = _no_exchanges
        self._exchanges: Exchanges | None = None
        self._responder: Responder | None = None
        self._input_pump: InputPump | None = None
        self._file_limit: Limit | None = None
        self.insecure_seed: tuple[int, int] | None = None
        """The value of `wasi:random/insecure-seed`, once the guest has asked for it."""

    def __repr__(self) -> str:
        return f"<Host {self.table!r} {self.state!r}>"

    def begin(
        self,
        call: Call,
        *,
        stdio: Stdio,
        sources: Sources,
        exchanges: BeginExchanges = _no_exchanges,
        responder: Responder | None = None,
        input_pump: InputPump | None = None,
    ) -> None:
        """Reset everything for a new invocation. The caller calls `state.begin` itself.

        Parameters:
            call: arguments and environment.
            stdio: the standard streams.
            sources: clocks and randomness.
            exchanges: opens outbound HTTP. Without it, a guest that makes a request fails with a fault of the host.
            responder: receives the response of a guest that is called with a request.
            input_pump: brings the bytes that `stdio` or the request's body do not hold yet.
        """
        self.account = Account(self._memory_bytes)
        self.table = Table(self._entries, self.account)
        self.call = call
        self.stdio = stdio
        self.sources = sources
        self._begin_exchanges = exchanges
        self._exchanges = None
        self._file_limit = None
        self._responder = responder
        self._input_pump = input_pump
        self.insecure_seed = None

    def enter(self, context: int) -> None:
        """Take the new store's context. Host functions may be called from now on.

        Parameters:
            context: address of the store's context, valid until `finish`.
        """
        self.context = context

    def finish(self) -> None:
        """Let go of everything that the guest left behind. The guest must not run again.

        The owner of the outbound requests closes them.
        """
        if self._files is not None:
            self._file_limit = self._files.quota.reached
            self._files.close()
            self._files = None
        self.context = 0
        self._exchanges = None
        for entry in self.table.clear():
            entry.parent = None

    @property
    def files(self) -> "Files | None":
        """The files of the invocation; None if the guest has none."""
        if self._files is None and self._new_files is not None:
            self._files = self._new_files()
        return self._files

    @property
    def file_limit(self) -> Limit | None:
        """The limit for which the invocation was refused something of a file, if any."""
        return self._file_limit if self._files is None else self._files.quota.reached

    @property
    def exchanges(self) -> Exchanges:
        """The invocation's outbound requests."""
        if self._exchanges is None:
            self._exchanges = self._begin_exchanges()
            if self._input_pump is not None:
                self._exchanges.watch(self._input_pump.fileno(), self._input_pump.pump)
        return self._exchanges

    @property
    def responder(self) -> Responder:
        """The receiver of the response.

        Raises:
            HostTrap: the guest was not called with a request.
        """
        if self._responder is None:
            raise HostTrap("wasi:http/types: there is no request to respond to")
        return self._responder

    def fail(self, error: BaseException) -> int:
        """Record why the guest is ended, and make the error that ends it. Never raises.

        Returns:
            The address of a new `wasmtime_error_t`. The receiver owns it.
        """
        self.state.note(error)
        pointer: int = abi.error_new(_ERROR_TEXT)
        return pointer

    def turn(self) -> None:
        """Let outbound requests make progress without waiting.

        A guest that polls in a loop would otherwise never get its answer.
        """
        if self._input_pump is not None:
            self._input_pump.pump()
        if self._exchanges is not None:
            self._exchanges.turn()

    def wait(self, ready: Callable[[], bool], due_ns: int | None = None) -> None:
        """Block until a condition holds.

        Parameters:
            ready: the condition, asked before and after each sleep. It must be cheap.
            due_ns: CLOCK_MONOTONIC instant at which to give up waiting; None waits without this bound.

        Raises:
            DeadlineExceeded: the invocation's deadline came first.
            Cancelled: the invocation was cancelled.
        """
        if self._exchanges is not None:
            self._exchanges.wait(ready, due_ns)
            return
        while not ready():
            now = time.monotonic_ns()
            if due_ns is not None and now >= due_ns:
                return
            left = (self.state.deadline_ns if due_ns is None else due_ns) - now
            if self._input_pump is None:
                # No request is under way, so that only the passing of time can make the condition true.
                self.state.sleep(left)
            else:
                self._input_pump.wait(max(0, min(left, self.state.deadline_ns - now, _CHECK_EVERY_NS)))
                self._input_pump.pump()
                self.state.check()

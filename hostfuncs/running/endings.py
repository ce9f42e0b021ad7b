"""The ending of a run: its outcome, and the message for the caller.

All these messages are made here. They are wazero's where wazero has one, because callers of Dapr know it. A message
about a limit names the limit's value and the setting that raises it.
"""

from typing import Any, Final, NamedTuple, Protocol

from hostfuncs import texts
from hostfuncs.abi import (
    Cancelled,
    DeadlineExceeded,
    GuestEnded,
    GuestTrapped,
    HostMemoryExceeded,
    HostTrap,
    InvocationState,
    OutputExceeded,
    ProcExit,
)
from hostfuncs.limits import KIB, MIB, Limit, Limits
from hostfuncs.outcome import CANCELED, DEADLINE_PASSED, EXITED, INTERNAL_ERROR, Outcome
from hostfuncs.running import traps


class Ending(NamedTuple):
    """The ending of one run."""

    outcome: Outcome
    exit_code: int = 0
    """The guest's exit status, 0 to 2**32 - 1, if the guest ended itself."""
    message: str = ""
    """The message for the caller. It never contains a path of the host or a traceback."""
    limit: str = ""
    """The limit that was exceeded: a `Limit`, or the limit that a `HostTrap` named. Empty if none was."""
    trace: str = ""
    """The place where a guest trapped, to follow the message. See `hostfuncs.running.traps.trace`."""
    log: str = ""
    """Text for the operator: the traceback of a host fault, or wasmtime's message. It may contain paths of the host."""


COMPLETED = Ending(Outcome.COMPLETED)


class LimitNames(Protocol):
    """The names of limits and their values in messages."""

    def name(self, limit: str) -> str:
        """Return the name of the setting that raises a limit."""
        ...

    def amount(self, limit: str, value: int) -> str:
        """Return a value of this limit for people: `16 MiB`."""
        ...


class PlainNames:
    """Names limits by the fields of `hostfuncs.Limits`."""

    def name(self, limit: str) -> str:
        """Return the field's name. See LimitNames."""
        return str(limit)

    def amount(self, limit: str, value: int) -> str:
        """Return the value with its unit. See LimitNames."""
        if not limit.endswith("_bytes"):
            return str(value)
        for unit, size in (("MiB", MIB), ("KiB", KIB)):
            if value and value % size == 0:
                return f"{value // size} {unit}"
        return f"{value} bytes"


PLAIN_NAMES: LimitNames = PlainNames()

_NO_HEAP = "GC heap out of memory"
"""The beginning of wasmtime's message if the garbage-collected heap met the memory limit."""

_FILE_LIMITS: Final = {
    Limit.OPEN_FILES: "it has more files open than",
    Limit.FILE_WRITE_BYTES: "it wrote more to its mounts than",
    Limit.FILE_ENTRIES: "it made more files in its mounts than",
    Limit.DIRECTORY_ENTRIES: "it listed folders with more entries at once than",
    Limit.PATH_BYTES: "it named a path longer than",
}
"""The beginnings of messages about a limit, whose value and name follow."""


_REMEMBERED_MAX: Final = 16
"""The most endings of each kind that are remembered of a guest, which chooses where and with which code it ends."""


def _remember(endings: dict[Any, Ending], key: object, ending: Ending) -> None:
    if len(endings) >= _REMEMBERED_MAX:
        endings.clear()
    endings[key] = ending


class Sentences:
    """Makes the endings of one guest's runs.

    Parameters:
        limits: the guest's limits.
        stack_bytes: the engine's stack for WebAssembly code.
        names: how messages name limits.
    """

    def __init__(self, limits: Limits, stack_bytes: int, names: LimitNames) -> None:
        self._limits = limits
        self._stack_bytes = stack_bytes
        self._names = names
        # Making an ending anew takes longer than many a run.
        self._exits: dict[int, Ending] = {}
        self._traps: dict[bytes, Ending] = {}
        self.deadline_exceeded = Ending(
            Outcome.DEADLINE_EXCEEDED,
            message=DEADLINE_PASSED,
            limit=Limit.TIMEOUT_MS,
        )

    def _bound(self, limit: Limit) -> str:
        """Return a limit's value and name: `16 MiB (stdout_bytes)`."""
        value = self._stack_bytes if limit is Limit.WASM_STACK_BYTES else getattr(self._limits, limit)
        return f"{self._names.amount(limit, value)} ({self._names.name(limit)})"

    def host(self, state: InvocationState, text: str = "") -> Ending | None:
        """Return the ending of a run that the host ended or that a host fault broke; None for any other run.

        Parameters:
            state: the run's state.
            text: wasmtime's message. It has the stack of a guest that broke the contract of a host function.
        """
        if state.failure is not None:
            log = f"host function failed:\n{state.failure}"
            return Ending(Outcome.HOST_FAILED, message=INTERNAL_ERROR, log=log)
        ending = None if state.ended is None else self._ended(state.ended)
        if ending is not None and ending.outcome in (Outcome.TRAPPED, Outcome.MEMORY_EXCEEDED):
            return ending._replace(trace=traps.trace(text))
        return ending

    def _ended(self, reason: GuestEnded) -> Ending | None:
        match reason:
            case ProcExit(code=code):
                return self.exited(code)
            case Cancelled():
                return Ending(Outcome.CANCELLED, message=CANCELED)
            case OutputExceeded():
                text = f"wrote more than {self._bound(Limit.STDOUT_BYTES)} to stdout"
                return Ending(Outcome.OUTPUT_EXCEEDED, message=text, limit=Limit.STDOUT_BYTES)
            case HostMemoryExceeded():
                text = (
                    f"wasm error: the host would hold more than {self._bound(Limit.HOST_MEMORY_BYTES)} for the guest; "
                    "drop handles that are no longer needed, and read the bodies of responses"
                )
                return Ending(Outcome.MEMORY_EXCEEDED, message=text, limit=Limit.HOST_MEMORY_BYTES)
            case DeadlineExceeded():
                return self.deadline_exceeded
            case HostTrap(message=message, limit=limit):
                named = f" ({self._names.name(limit)})" if limit else ""
                return Ending(Outcome.TRAPPED, message=f"wasm error: {message}{named}", limit=limit)
            case GuestTrapped():
                return None
        raise AssertionError(f"not a reason: {reason!r}")

    def exited(self, code: int) -> Ending:
        """Return the ending of a guest that ended itself."""
        if code == 0:
            return COMPLETED
        ending = self._exits.get(code)
        if ending is None:
            ending = Ending(Outcome.EXIT_NONZERO, code, EXITED.format(code=code))
            _remember(self._exits, code, ending)
        return ending

    def known_trap(self, place: bytes) -> Ending | None:
        """Return the ending of a core guest that has trapped in the same place before, if it is remembered.

        Parameters:
            place: see `hostfuncs.native.Failure`.
        """
        return self._traps.get(place)

    def trapped(self, code: int | None, text: str, place: bytes = b"") -> Ending:
        """Return the ending of a core guest that trapped.

        Parameters:
            code: the trap's code; None if it has none.
            text: wasmtime's message.
            place: remembered for `known_trap`; empty if it is not known.
        """
        ending = self._trapped(code, text)
        if place:
            _remember(self._traps, place, ending)
        return ending

    def _trapped(self, code: int | None, text: str) -> Ending:
        if code == traps.STACK_OVERFLOW:
            ending = self._stack_overflow()
        elif code is None and traps.last_line(text).startswith(_NO_HEAP):
            ending = self._heap_exhausted()
        else:
            ending = Ending(Outcome.TRAPPED, message=traps.describe(code, text))
        return ending._replace(trace=traps.trace(text))

    def component_trapped(self, text: str) -> Ending:
        """Return the ending of a component that trapped.

        Its errors carry no trap code, so the cause is taken from wasmtime's message.

        Parameters:
            text: wasmtime's message.
        """
        cause = traps.last_line(text)
        if cause.startswith(_NO_HEAP):
            ending = self._heap_exhausted()
        elif cause == traps.STACK_OVERFLOW_TEXT:
            ending = self._stack_overflow()
        else:
            ending = Ending(Outcome.TRAPPED, message=f"wasm error: {traps.COMPONENT_TEXTS.get(cause, cause) or 'trap'}")
        return ending._replace(trace=traps.trace(text))

    def _stack_overflow(self) -> Ending:
        # The message begins with wazero's words.
        text = f"wasm error: stack overflow: more than {self._bound(Limit.WASM_STACK_BYTES)} in use"
        return Ending(Outcome.TRAPPED, message=text, limit=Limit.WASM_STACK_BYTES)

    def _heap_exhausted(self) -> Ending:
        # wasmtime counts the garbage-collected heap as one of the guest's memories.
        text = f"wasm error: out of memory for objects: more than {self._bound(Limit.MEMORY_BYTES)}"
        return Ending(Outcome.MEMORY_EXCEEDED, message=text, limit=Limit.MEMORY_BYTES)

    def too_large(self, what: str, text: str) -> Ending:
        """Return the ending of a guest that cannot be instantiated. Its imports are resolved, so a limit is the cause.

        Parameters:
            what: `module` or `component`.
            text: wasmtime's message. Only it distinguishes a table from a memory. The outcome is the same for both.
        """
        limit, noun = (Limit.TABLE_ELEMENTS, "table elements") if "table" in text else (Limit.MEMORY_BYTES, "memory")
        return Ending(
            Outcome.MEMORY_EXCEEDED,
            message=f"the {what} needs more {noun} to begin with than {self._bound(limit)}",
            limit=limit,
            log=f"cannot be instantiated: {texts.bounded(text)}",
        )

    def begins_too_large(self, memory_bytes: int) -> Ending:
        """Return the ending of a module whose initial memory is larger than its limit."""
        amount = self._names.amount(Limit.MEMORY_BYTES, memory_bytes)
        text = f"needs {amount} of memory to begin with, more than {self._bound(Limit.MEMORY_BYTES)}"
        return Ending(Outcome.MEMORY_EXCEEDED, message=text, limit=Limit.MEMORY_BYTES)

    def refused_memory(self, ending: Ending, memory_bytes: int) -> Ending:
        """Return the ending of a guest that failed by itself, most likely because it was refused memory.

        Parameters:
            ending: the ending without that cause.
            memory_bytes: the size to which its memory had grown.
        """
        amount = self._names.amount(Limit.MEMORY_BYTES, memory_bytes)
        text = f"{ending.message}; {amount} of memory were in use of {self._bound(Limit.MEMORY_BYTES)}"
        return Ending(Outcome.MEMORY_EXCEEDED, ending.exit_code, text, Limit.MEMORY_BYTES, ending.trace)

    def refused_file(self, ending: Ending, limit: Limit) -> Ending:
        """Return the ending of a guest that failed by itself after a limit on files had refused it something.

        Parameters:
            ending: the ending without that cause.
            limit: the limit that refused something last.
        """
        text = f"{ending.message}; {_FILE_LIMITS[limit]} {self._bound(limit)}"
        return ending._replace(message=text, limit=limit)

"""The reasons for which the host ends a guest. A host function raises one; the boundary turns it into a trap.

When a host function cannot do what the guest asked, it either returns an error number to the guest or ends the guest.
There is no third way. The reason for an end travels in `InvocationState.ended`, never in the text of the trap.

Plain exceptions: importing them loads neither wasmtime nor an HTTP client.
"""

from hostfuncs import texts


class GuestEnded(Exception):  # noqa: N818 - proc_exit(0) ends a guest too, and is not an error
    """Base of all reasons. The first one raised in a run counts; later ones are its consequences."""


class ProcExit(GuestEnded):
    """The guest asked to exit.

    Parameters:
        code: exit status as the guest gave it, 0 to 2**32 - 1.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"exit status {code}")
        self.code = code


class HostTrap(GuestEnded):
    """The guest broke the contract of a host function that has no error number for the case.

    Parameters:
        message: for the caller of the guest; names the function and what was wrong, never a path of the host.
        limit: the limit that was exceeded: a `hostfuncs.limits.Limit`, or the name of one that an embedder's own host
            object has. Empty if no limit was exceeded.
    """

    def __init__(self, message: str, *, limit: str = "") -> None:
        message = texts.bounded(message)
        super().__init__(message)
        self.message = message
        self.limit = limit


class GuestTrapped(GuestEnded):
    """WebAssembly code that a host function called back (an allocator, say) trapped.

    Parameters:
        code: wasmtime's trap code, or None if the engine failed otherwise.
        message: the engine's own text, for the log.
    """

    def __init__(self, code: int | None, message: str) -> None:
        message = texts.bounded(message)
        super().__init__(message)
        self.code = code
        self.message = message


class OutputExceeded(GuestEnded):
    """The guest wrote more to stdout than it may.

    Parameters:
        limit: the limit in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes written to stdout")
        self.limit = limit


class HostMemoryExceeded(GuestEnded):
    """The guest made the host hold more for it than it may.

    Parameters:
        limit: the limit in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes held by the host")
        self.limit = limit


class DeadlineExceeded(GuestEnded):
    """The deadline of the run passed."""

    def __init__(self) -> None:
        super().__init__("deadline exceeded")


class Cancelled(GuestEnded):
    """Nobody waits for the result any more: the caller went away, or a signal handler raised an exception."""

    def __init__(self) -> None:
        super().__init__("cancelled")


class Fault(Exception):  # noqa: N818 - the word that WASI and POSIX use
    """A pointer and a length from the guest that do not lie in its memory.

    A function with an error number for this case returns `EFAULT`. In all others the boundary turns it into a trap.

    Parameters:
        pointer: where the range begins.
        length: its length in bytes.
        size: the size of the memory.
    """

    def __init__(self, pointer: int, length: int, size: int) -> None:
        super().__init__(f"{length} bytes at {pointer} are outside the guest's memory of {size} bytes")
        self.pointer = pointer
        self.length = length
        self.size = size

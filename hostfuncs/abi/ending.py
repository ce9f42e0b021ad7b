"""Why a guest is ended. A host function raises one of these; `hostfuncs.abi.define` turns it into a trap.

A host failure is either an error number the guest is told, or the end of the guest; there is nothing between. These are
the ends. The reason travels in `InvocationState.ended`, never in the text of the trap.
"""


class GuestEnded(Exception):  # noqa: N818 - proc_exit(0) ends a guest too, and is no error
    """Base of all reasons. The first one raised in an invocation is the reason; later ones are its echo."""


class ProcExit(GuestEnded):
    """The guest asked to exit.

    Parameters:
        code: exit status as the guest gave it, 0 to 2**32 - 1.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"exit status {code}")
        self.code = code


class HostTrap(GuestEnded):
    """The guest broke the contract of a host function that has no error number for it.

    Parameters:
        message: for the caller of the guest; names the function and what was wrong, never a host path.
        limit: which limit of the guest was passed, if that was it: `host_entries`, `outbound_header_bytes`, ...
    """

    def __init__(self, message: str, *, limit: str = "") -> None:
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


class DeadlineExceeded(GuestEnded):
    """The invocation's deadline passed."""

    def __init__(self) -> None:
        super().__init__("deadline exceeded")


class Cancelled(GuestEnded):
    """The caller of the invocation went away."""

    def __init__(self) -> None:
        super().__init__("cancelled")


class Fault(Exception):  # noqa: N818 - the word WASI and POSIX have for it
    """A guest pointer and length that do not lie in the guest's memory.

    Functions with an error number for it answer `EFAULT`; in all others the boundary makes it a trap.

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

"""The bytes that the host holds for one run of a guest, and their bound.

The host's own memory is no part of the guest's, so `memory_bytes` does not bound it. Everything that a guest can make
the host keep is counted here instead: handles, header fields, names and URLs, bodies, and the buffers of requests in
flight. Standard input, output and error are not, and neither is the folder in memory: each has a limit of its own.
"""

from hostfuncs.ending import HostMemoryExceeded

HANDLE_BYTES = 512
"""The cost of a handle beyond its parts: the object, its place in the table, and the engine's entry for it."""
LINE_BYTES = 192
"""The cost of a header line beyond its characters: two objects of Python's and a tuple."""
REQUEST_BYTES = 8 * 1024
"""The cost of a request beyond its texts, from its start until the guest drops its handle: a coroutine, two bodies and
the state of its connection."""
CONNECTION_BYTES = 256 * 1024
"""The most that the buffers of a connection hold while a request uses it, TLS included."""
RECORD_BYTES = 128
"""The cost of the record of a request, which is kept until the run is over."""


class Account:
    """Counts what is held for one run. A new run gets a new one.

    Parameters:
        limit: bytes that may be held at once.

    Attributes:
        held: bytes held now.
        bodies: how much of `held` are bytes of bodies. They have half of the account, and whoever fills that half waits
            until some are gone.
    """

    __slots__ = ("bodies", "held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.bodies = 0

    def __repr__(self) -> str:
        return f"<Account {self.held} of {self.limit} bytes, {self.bodies} of them in bodies>"

    def take(self, size: int) -> None:
        """Count bytes that are about to be held; fewer than none gives some back.

        Raises:
            HostMemoryExceeded: they would be too many. None of them is counted.
        """
        held = self.held + size
        if held > self.limit:
            raise HostMemoryExceeded(self.limit)
        self.held = held

    def check(self, size: int) -> None:
        """Raise HostMemoryExceeded if so many bytes cannot be held, without counting them."""
        if self.held + size > self.limit:
            raise HostMemoryExceeded(self.limit)

    def take_body(self, size: int) -> None:
        """Count bytes of a body. Raises HostMemoryExceeded."""
        self.take(size)
        self.bodies += size

    def give_body(self, size: int) -> None:
        """Give bytes of a body back."""
        self.held -= size
        self.bodies -= size

    def body_room(self) -> int:
        """Return how many more bytes of bodies may be held before their writers have to wait; never less than 0."""
        return max(0, self.limit // 2 - self.bodies)

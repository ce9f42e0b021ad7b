"""What travels with a request through the pool to the connection that serves it, and what comes back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hostfuncs.outbound.admission import Plan
from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.body import RequestBody
from hostfuncs.outbound.errors import OutboundError, Phase
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.shapes import Fields


class Occupied(Exception):  # noqa: N818 - a state, not a malfunction
    """The connection turned out to be unable to take another request; nothing was sent."""


@dataclass(kw_only=True, slots=True)
class Passage:
    """One attempt at one exchange."""

    plan: Plan
    policy: Policy
    """With `plan.admitted`, decides which addresses are allowed."""
    headers: list[tuple[bytes, bytes]]
    """Host and framing included."""
    enter: Callable[[Phase], None]
    """Told when a phase begins; sets the timeout that belongs to it."""
    fail: Callable[[OutboundError], None]
    """Told when the request cannot be sent on for a reason of the guest's; ends the exchange."""
    body: RequestBody | None = None
    timeouts: dict[str, float] | None = None
    """For httpcore2's own connections, which serve requests that go through a proxy. Seconds."""
    reused: bool = False
    """Set by the connection: it had served before, so its origin may have closed it unseen."""
    lost: bool = False
    """Set by the connection: it failed as one does that its origin had given up."""
    trailers: Fields = ()
    """Set by the connection at the end of the response."""


class Reply(Protocol):
    """The response to a passage's request."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def headers(self) -> Fields:
        """The header lines."""
        ...

    async def next_data(self) -> bytes | None:
        """Return the next piece of the content, None at its end."""
        ...

    async def release(self) -> None:
        """The exchange is over, however it went. Waits for no network. Once."""
        ...


class Connection(Protocol):
    """A connection from the pool's point of view; not yet standing when it is made."""

    @property
    def origin(self) -> Origin:
        """Where it leads."""
        ...

    async def request(self, passage: Passage) -> Reply:
        """Connect if that is still to do, and send a request.

        Raises:
            Occupied: see there.
            Exception: the exchange failed, and nothing of it is left on the connection.
        """
        ...

    def close(self) -> None:
        """Close at once."""
        ...

    def idle(self) -> bool:
        """Whether it stands and nothing runs on it."""
        ...

    def stale(self) -> bool:
        """Whether it must not be used again; asked of idle ones."""
        ...

    def shares(self) -> bool:
        """Whether it can take a(nother) request while others run on it, as far as is known."""
        ...

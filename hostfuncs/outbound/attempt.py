"""One attempt to send a request: the value that goes through the connection pool, and the interfaces around it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hostfuncs.account import Account
from hostfuncs.outbound.admission import Plan
from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.body import RequestBody
from hostfuncs.outbound.errors import OutboundError, Phase
from hostfuncs.outbound.policy import Policy
from hostfuncs.outbound.values import Fields


class Occupied(Exception):  # noqa: N818 - a state, not a malfunction
    """The connection cannot take another request. Nothing was sent."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One attempt at one exchange."""

    plan: Plan
    account: Account
    """Counts the bytes that are held for the guest."""
    policy: Policy
    """With `plan.admitted`, decides which addresses are allowed."""
    headers: list[tuple[bytes, bytes]]
    """Host and framing included."""
    enter: Callable[[Phase], None]
    """Told when a phase begins; sets the timeout that belongs to it."""
    fail: Callable[[OutboundError], None]
    """Told when the request cannot be sent on for a reason of the guest's; ends the exchange."""
    body: RequestBody | None = None
    reused: bool = False
    """Set by the connection: it had served before, so its origin may have closed it unseen."""
    lost: bool = False
    """Set by the connection: it failed as one does that its origin had given up."""
    trailers: Fields = ()
    """Set by the connection at the end of the response."""


class Reply(Protocol):
    """The response to an attempt's request."""

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
        """Return where it leads."""
        ...

    async def request(self, attempt: Attempt) -> Reply:
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
        """Return whether it stands and nothing runs on it."""
        ...

    def stale(self) -> bool:
        """Return whether it must not be used again; asked of idle ones."""
        ...

    def shares(self) -> bool:
        """Return whether it can take a(nother) request while others run on it, as far as is known."""
        ...

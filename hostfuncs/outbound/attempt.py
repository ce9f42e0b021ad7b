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
    """The connection cannot take another request. Nothing was sent on it."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One attempt to send a request."""

    plan: Plan
    account: Account
    """Counts the bytes that are held for the guest."""
    policy: Policy
    """Decides, with `plan.admitted`, which addresses are allowed."""
    headers: list[tuple[bytes, bytes]]
    """The header lines, with Host and framing."""
    enter: Callable[[Phase], None]
    """Called when a phase begins. It sets the timeout of the phase."""
    fail: Callable[[OutboundError], None]
    """Called if the guest's own body keeps the request from being sent. It ends the exchange."""
    body: RequestBody | None = None
    reused: bool = False
    """Set by the connection if it has served a request before. Its origin may then have closed it unnoticed."""
    lost: bool = False
    """Set by the connection if it failed in the way of a connection that its origin had closed."""
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
        """End the exchange, complete or not. It does not wait for the network. It is called once."""
        ...


class Connection(Protocol):
    """A connection as the pool uses it. A new one is not connected yet."""

    @property
    def origin(self) -> Origin:
        """The origin to which it leads."""
        ...

    async def request(self, attempt: Attempt) -> Reply:
        """Connect, unless it is connected, and send a request.

        Raises:
            Occupied: it cannot take another request.
            Exception: the exchange failed, and nothing of it is left on the connection.
        """
        ...

    def close(self) -> None:
        """Close at once."""
        ...

    def idle(self) -> bool:
        """Return whether it is connected and carries no request."""
        ...

    def stale(self) -> bool:
        """Return whether an idle connection must not be used again."""
        ...

    def shares(self) -> bool:
        """Return whether it can take a further request beside those it carries, as far as is known."""
        ...

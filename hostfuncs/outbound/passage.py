"""What travels with a request through the pool to the connection that serves it."""

from collections.abc import Callable
from dataclasses import dataclass

from hostfuncs.outbound.body import RequestBody
from hostfuncs.outbound.errors import OutboundError, Phase
from hostfuncs.outbound.policy import Policy, Rule
from hostfuncs.outbound.shapes import Fields


@dataclass(kw_only=True, slots=True)
class Passage:
    """One attempt at one exchange. The `passage` extension of its httpcore2 request."""

    policy: Policy
    rule: Rule | None
    """What admitted it; decides which addresses are allowed."""
    enter: Callable[[Phase], None]
    """Told when a phase begins; sets the timeout that belongs to it."""
    fail: Callable[[OutboundError], None]
    """Told when the request cannot be sent on for a reason of the guest's; ends the exchange."""
    body: RequestBody | None = None
    expects_continue: bool = False
    reused: bool = False
    """Set by the connection: it had served before, so its origin may have closed it unseen."""
    trailers: Fields = ()
    """Set by the connection at the end of the response."""

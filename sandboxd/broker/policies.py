"""A binding's egress policy, from what the processes are told of the binding."""

from collections.abc import Sequence

from hostfuncs.outbound.policy import Policy
from sandboxd.limits import OutboundSettings


def policy_for(
    binding: str, allowed: Sequence[str] | None, own_ports: Sequence[int], settings: OutboundSettings
) -> Policy:
    """Make the policy of a binding: whom its guest may call.

    Parameters:
        binding: its name.
        allowed: the patterns of its component; None for those of the settings.
        own_ports: ports on which the server listens.
        settings: of all bindings.

    Raises:
        ValueError: a pattern is wrong.
    """
    return Policy.parse(
        settings.default_allowed_hosts if allowed is None else allowed,
        settings.block_networks,
        nat64_prefixes=settings.nat64_prefixes,
        own_ports=own_ports,
        owner=binding,
    )

"""How many connections the front takes, by whom: without a server."""

from sandboxd.front.servers.connections import CallerLimits, Connections
from sandboxd.front.servers.refusals import Refusals


class Busy:
    """A connection on which a request is under way."""

    def __init__(self, peer: str) -> None:
        self.peer = peer

    def idle_since(self) -> None:
        """See `Connection`."""

    def overdue(self, now: float) -> None:
        """See `Connection`."""

    def unread(self) -> int:
        """See `Connection`."""
        return 0

    sent = unread

    def close(self) -> None:
        """See `Connection`."""

    abort = close


def admitted(*peers: str, most: int = 8, per_peer: int = 3) -> int:
    connections = Connections(CallerLimits(max_connections=most, max_per_peer=per_peer), Refusals(lambda _: None))
    return sum(connections.enter(Busy(peer)) for peer in peers)


def test_one_address_does_not_take_all() -> None:
    assert admitted(*["192.0.2.1"] * 8) == 3
    assert admitted(*["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"]) == 3
    assert admitted(*["::ffff:192.0.2.1", "192.0.2.1"] * 4) == 3
    assert admitted(*(f"192.0.2.{n}" for n in range(20))) == 8


def test_callers_of_a_unix_socket_have_no_address_to_share() -> None:
    """Behind a proxy on a Unix socket all callers would be one peer, and a quarter of the connections never used."""
    assert admitted(*[""] * 8) == 8
    assert admitted(*[""] * 20) == 8

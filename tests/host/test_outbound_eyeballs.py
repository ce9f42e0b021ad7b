"""Happy eyeballs (RFC 8305): an address that leads nowhere costs one pause of 250 ms at most, whatever else it has."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from hostfuncs.outbound import Outbound, Policy
from hostfuncs.outbound.network import ATTEMPT_DELAY_S, interleaved
from tests.host.outbound_client import fetch
from tests.origins import Origin

POLICY = Policy.parse(["http://two.test:*", "http://127.0.0.1:*", "http://[::1]:*"])


class Recording(asyncio.SelectorEventLoop):
    """Counts the pauses between attempts that were waited for to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = 0

    def call_later(self, delay, callback, *args, context=None):  # type: ignore[no-untyped-def]
        """See asyncio."""
        return super().call_later(delay, self._count, delay, callback, args, context=context)

    def _count(self, delay: float, callback: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.ended += delay == ATTEMPT_DELAY_S
        callback(*args)


class Resolves:
    """Resolves every name to the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int) -> tuple[str, ...]:
        """See Resolver."""
        return self.addresses


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as running:
        yield running


@pytest.fixture
def silent(origin: Origin) -> Iterator[list[socket.socket]]:
    """The origin's port at ::1, where the kernel drops every further SYN: the queue of an idle listener is full."""
    with closing(socket.socket(socket.AF_INET6)) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::1", origin.port))
        listener.listen(0)
        filling = [socket.socket(socket.AF_INET6) for _ in range(4)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(("::1", origin.port))
        yield filling
        for sock in filling:
            sock.close()


def ask(origin: Origin, *addresses: str) -> tuple[int, int]:
    """The status of a request to a name with these addresses, and how many pauses were waited for to their end."""
    loop = Recording()
    outbound = Outbound(resolver=Resolves(*addresses), new_loop=lambda: loop)
    got = fetch(outbound, f"http://two.test:{origin.port}/echo", policy=POLICY)
    outbound.close()
    return got.status, loop.ended


@pytest.mark.usefixtures("silent")
def test_a_dead_address_costs_one_pause(origin: Origin) -> None:
    """Nothing but the pause can have started the second attempt: the first one never ends."""
    assert ATTEMPT_DELAY_S <= 0.25
    assert ask(origin, "::1", "127.0.0.1") == (200, 1)


@pytest.mark.usefixtures("silent")
def test_a_dead_family_costs_one_pause(origin: Origin) -> None:
    assert ask(origin, "::1", "::1", "::1", "127.0.0.1") == (200, 1)


def test_an_address_that_refuses_costs_none(origin: Origin) -> None:
    assert ask(origin, "::1", "127.0.0.1") == (200, 0)


@pytest.mark.usefixtures("silent")
def test_an_address_that_is_not_allowed_is_never_tried(origin: Origin) -> None:
    """A prohibited one before and after: they take no turn."""
    assert ask(origin, "169.254.169.254", "::1", "fe80::1", "127.0.0.1") == (200, 1)


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ("6a 6b 6c 4a 4b", "6a 4a 6b 4b 6c"),
        ("4a 4b 6a", "4a 6a 4b"),
        ("4a 4b", "4a 4b"),
        ("6a", "6a"),
    ],
)
def test_the_families_take_turns(given: str, order: str) -> None:
    texts = {"4a": "192.0.2.1", "4b": "192.0.2.2", "6a": "2001:db8::1", "6b": "2001:db8::2", "6c": "2001:db8::3"}
    addresses = {name: ipaddress.ip_address(text) for name, text in texts.items()}
    assert interleaved([addresses[name] for name in given.split()]) == [addresses[name] for name in order.split()]

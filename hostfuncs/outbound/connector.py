"""Connects to an origin: resolves its name once, checks every address, connects to one that passed, and starts TLS."""

import asyncio
import socket
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from hostfuncs.outbound.addresses import Address
from hostfuncs.outbound.attempt import Attempt
from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.errors import OutboundError, Phase, Unresolved
from hostfuncs.outbound.network import Resolver, Stream, adopt, open_socket, parse_addresses
from hostfuncs.outbound.policy import Denied, Policy, Rule
from hostfuncs.outbound.tls import Contexts
from hostfuncs.outbound.values import Settings


class AddressDenied(OutboundError):  # noqa: N818 - a decision, not a malfunction
    """The policy refused every address of the name."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.code)
        self.denied = denied


def permitted(
    policy: Policy, rule: Rule | None, scheme: str, port: int, addresses: Sequence[Address]
) -> Sequence[Address]:
    """Return the addresses that a policy allows.

    Parameters:
        policy: the egress policy.
        rule: the rule that admitted the origin; None for the default rule.
        scheme, port: the origin's.
        addresses: the addresses of its name, at least one.

    Raises:
        AddressDenied: the policy allows none.
    """
    allowed = []
    denied: Denied | None = None
    for address in addresses:
        try:
            policy.check_address(rule, scheme, port, address)
        except Denied as exc:
            denied = exc
        else:
            allowed.append(address)
    if not allowed:
        assert denied is not None
        raise AddressDenied(denied)
    return allowed


class Dialer(Protocol):
    """Resolves and connects for a process that has no sockets of its own. It checks the policy itself."""

    async def dial(self, scheme: str, host: str, port: int, enter: Callable[[Phase], None]) -> socket.socket:
        """Return a connected socket in non-blocking mode.

        Parameters:
            scheme, host, port: the origin. The scheme is empty for the operator's proxy, which needs no policy.
            enter: called with `Phase.CONNECTING` when the name is resolved.

        Raises:
            AddressDenied, Unresolved, OutboundError, OSError: the origin cannot be connected to.
        """
        ...


class Client(Protocol):
    """The HTTP client of a worker, `hostfuncs.outbound.sender.Outbound`, as its connections and exchanges use it."""

    settings: Settings
    contexts: Contexts
    resolver: Resolver
    dialer: Dialer | None
    streams: "weakref.WeakSet[Stream]"
    in_place: bool
    loop_epoch: int
    unsettled: bool

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Put a coroutine into a task."""
        ...

    def settle(self) -> None:
        """Wait briefly until cancelled tasks have ended."""
        ...


class Connector:
    """Opens streams for the connections of one pool.

    Parameters:
        outbound: the HTTP client of the worker.
        make_room: called before connecting; closes idle connections of other pools if there are too many.
    """

    def __init__(self, outbound: Client, make_room: Callable[[], None]) -> None:
        self.outbound = outbound
        self._make_room = make_room

    async def open(self, origin: Origin, attempt: Attempt) -> Stream:
        """Open a stream to an origin.

        Raises:
            AddressDenied, Unresolved, OutboundError, OSError, ssl.SSLError: the origin cannot be connected to.
        """
        scheme, host, port = origin
        dialer = self.outbound.dialer
        if dialer is not None:
            stream = await self._have_dialled(dialer, scheme, host, port, attempt)
        else:
            addresses = await self._resolve(host, port, attempt)
            allowed = permitted(attempt.policy, attempt.plan.admitted, scheme, port, addresses)
            stream = await self._connect(allowed, port, attempt)
        try:
            if scheme == "https":
                context = self.outbound.contexts.for_origin(scheme, host, port)
                await stream.start_tls(context, server_hostname=host)
        except BaseException:
            stream.abort()
            raise
        return stream

    async def dial(self, host: str, port: int, attempt: Attempt) -> Stream:
        """Open a stream to a host that the operator named. No policy is checked.

        Raises:
            Unresolved, OutboundError, OSError: the host cannot be connected to.
        """
        dialer = self.outbound.dialer
        if dialer is not None:
            return await self._have_dialled(dialer, "", host, port, attempt)
        return await self._connect(await self._resolve(host, port, attempt), port, attempt)

    async def _resolve(self, host: str, port: int, attempt: Attempt) -> Sequence[Address]:
        attempt.enter(Phase.RESOLVING)
        addresses = parse_addresses([host]) or parse_addresses(await self.outbound.resolver.resolve(host, port))
        if not addresses:
            raise Unresolved
        return addresses

    async def _connect(self, addresses: Sequence[Address], port: int, attempt: Attempt) -> Stream:
        attempt.enter(Phase.CONNECTING)
        self._make_room()
        return await self._adopt(await open_socket(addresses, port))

    async def _have_dialled(self, dialer: Dialer, scheme: str, host: str, port: int, attempt: Attempt) -> Stream:
        attempt.enter(Phase.RESOLVING)
        self._make_room()
        return await self._adopt(await dialer.dial(scheme, host, port, attempt.enter))

    async def _adopt(self, sock: socket.socket) -> Stream:
        stream = await adopt(sock, in_place=self.outbound.in_place)
        self.outbound.streams.add(stream)
        return stream

"""From an origin to a stream: resolve once, check every address, connect to one that passed, speak TLS."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hostfuncs.outbound.authority import Origin
from hostfuncs.outbound.errors import OutboundError, Phase, Unresolved
from hostfuncs.outbound.network import Resolver, Stream, connect, parse_addresses
from hostfuncs.outbound.passage import Passage
from hostfuncs.outbound.policy import Denied
from hostfuncs.outbound.tls import Contexts


class AddressDenied(OutboundError):  # noqa: N818 - a decision, not a malfunction
    """Every address of the name was refused by the policy."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.code)
        self.denied = denied


class Opener:
    """Opens streams for the connections of one pool.

    Parameters:
        spawn: puts a coroutine into a task.
        now: the era: which time it is that the loop was set going.
        contexts: whom to trust.
        resolver: turns names into addresses.
        make_room: called before connecting; closes idle connections of other pools if there are too many.
        opened: told of every stream.
        in_place: see `Stream`.
    """

    def __init__(
        self,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        now: Callable[[], int],
        contexts: Contexts,
        resolver: Resolver,
        make_room: Callable[[], None],
        opened: Callable[[Stream], None],
        in_place: bool,
    ) -> None:
        self.spawn = spawn
        self._now = now
        self._contexts = contexts
        self._resolver = resolver
        self._make_room = make_room
        self._opened = opened
        self._in_place = in_place

    @property
    def era(self) -> int:
        """Which time it is that the loop was set going."""
        return self._now()

    async def open(self, origin: Origin, passage: Passage) -> Stream:
        """Open one.

        Raises:
            AddressDenied, Unresolved, OSError, ssl.SSLError: it cannot be.
        """
        scheme, host, port = origin
        passage.enter(Phase.RESOLVING)
        addresses = parse_addresses([host])
        if not addresses:
            addresses = parse_addresses(await self._resolver.resolve(host, port))
        if not addresses:
            raise Unresolved
        allowed = []
        denied: Denied | None = None
        for address in addresses:
            try:
                passage.policy.check_address(passage.plan.admitted, scheme, port, address)
            except Denied as exc:
                denied = exc
            else:
                allowed.append(address)
        if not allowed:
            assert denied is not None
            raise AddressDenied(denied)
        passage.enter(Phase.CONNECTING)
        self._make_room()
        stream = await connect(allowed, port, in_place=self._in_place)
        self._opened(stream)
        try:
            if scheme == "https":
                context = self._contexts.for_origin(scheme, host, port)
                await stream.start_tls(context, server_hostname=host)
        except BaseException:
            stream.abort()
            raise
        return stream

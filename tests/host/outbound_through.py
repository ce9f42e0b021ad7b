"""The outbound client with a transport of httpx between it and the guests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx

from hostfuncs.outbound import Exchanges, Outbound, OutboundLimits, Policy
from hostfuncs.outbound.httpx_adapter import Factory, HttpxAdapter
from tests.host.outbound_client import Got, fetch

ANY = Policy.parse(["*"])
Make = Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]


class Through(Outbound):
    """An engine whose requests all go through a transport; by default one that only passes on.

    Parameters:
        transport: the transport, or what makes it around the inner one.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport | Factory = lambda inner: inner) -> None:
        super().__init__()
        self.transport = transport
        self.reported: list[BaseException] = []
        self._adapter: tuple[httpx.AsyncBaseTransport | Factory, HttpxAdapter] | None = None

    def begin(
        self, policy: Policy, limits: OutboundLimits, deadline_ns: int, check: Callable[[], None] | None = None
    ) -> Exchanges:
        """See Outbound."""
        if self._adapter is None or self._adapter[0] is not self.transport:
            self._adapter = self.transport, HttpxAdapter(self.transport, self.reported.append)
        return self._adapter[1].begin(self, policy, limits, deadline_ns, check)


class Passing(httpx.AsyncBaseTransport):
    """Passes on what `change` makes of a request."""

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        change: Callable[[httpx.Request], httpx.Request] = lambda request: request,
    ) -> None:
        self.inner = inner
        self.change = change
        self.responses: list[httpx.Response] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        response = await self.inner.handle_async_request(self.change(request))
        self.responses.append(response)
        return response


@contextmanager
def through(transport: httpx.AsyncBaseTransport | Make) -> Iterator[Through]:
    """An engine with this transport, closed at the end."""
    outbound = Through(transport)
    yield outbound
    outbound.close()


def answered(
    handler: Callable[[httpx.Request], Any], url: str = "http://a.test/", method: str = "GET", **more: Any
) -> Got:
    """Return the response that a guest gets if a handler answers its requests."""
    more.setdefault("policy", ANY)
    with through(httpx.MockTransport(handler)) as outbound:
        got = fetch(outbound, url, method, **more)
        assert outbound.connections() == (0, 0)
        return got

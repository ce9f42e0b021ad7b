"""Adapts `network.Stream` and the connector to the network interfaces of httpcore2."""

import asyncio
import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore2

from hostfuncs.account import Account
from hostfuncs.outbound.attempt import Attempt
from hostfuncs.outbound.connector import Connector
from hostfuncs.outbound.errors import Phase
from hostfuncs.outbound.network import Stream

PIECE_BYTES = 16 * 1024
"""The most bytes that are read at once. httpcore2 processes them without a pause."""
_SMALL_PIECE_BYTES = 2 * 1024
_LONG_S = 0.005
"""If httpcore2 took longer than this for a piece, the next one is small: many short frames take the longest."""


class Network(httpcore2.AsyncNetworkStream):
    """Adapts a stream to httpcore2's interface. It ignores timeouts, which the exchange has.

    Parameters:
        stream: the stream.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._account: Account | None = None
        self._unread = 0
        self._given_at = 0.0
        self._given_up = False
        self._peer_ended = False
        self.abort = stream.abort

    def gone(self) -> bool:
        """Return whether the peer has closed.

        httpcore2 closes the stream at every failure, and tells of it only then. After that, what counts is whether it
        had come to the stream's end, and not to an answer that makes no sense.
        """
        return self._peer_ended if self._given_up else self._stream.gone()

    def count(self, account: Account) -> None:
        """Count the bytes that are read, until `delivered` or `settle`. httpcore2 holds them for its HTTP/2 streams."""
        self._account = account

    def delivered(self, size: int) -> None:
        """Stop counting `size` bytes of content, which another buffer holds now."""
        self._give(min(size, self._unread))

    def settle(self) -> None:
        """Stop counting: httpcore2 holds no bytes any more."""
        self._give(self._unread)
        self._account = None

    def _give(self, size: int) -> None:
        self._unread -= size
        if self._account is not None:
            self._account.held -= size

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore2."""
        long = time.monotonic() - self._given_at > _LONG_S
        data = await self._stream.read(min(max_bytes, _SMALL_PIECE_BYTES if long else PIECE_BYTES))
        self._peer_ended = not data
        if self._account is not None:
            self._account.take(len(data))
            self._unread += len(data)
        # Otherwise an origin that always sends more would keep the event loop from its timers.
        await asyncio.sleep(0)
        self._given_at = time.monotonic()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore2."""
        await self._stream.write(buffer)

    async def aclose(self) -> None:
        """See httpcore2."""
        self._given_up = True
        self._stream.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """See httpcore2."""
        await self._stream.start_tls(ssl_context, server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        """See httpcore2."""
        if info == "is_readable":
            return self._stream.has_activity()
        return self._stream.tls if info == "ssl_object" else None


class Backend(httpcore2.AsyncNetworkBackend):
    """The network backend of one connection to a proxy. The operator named it, so no binding's policy is checked."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.attempt: Attempt | None = None
        self.network: Network | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """See httpcore2."""
        assert self.attempt is not None
        self.network = Network(await self._connector.dial(host, port, self.attempt))
        self.network.count(self.attempt.account)
        self.attempt.enter(Phase.HEAD)
        return self.network

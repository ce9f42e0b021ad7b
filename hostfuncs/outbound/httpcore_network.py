"""Streams and connects of ours, in the form that httpcore2 takes them."""

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
"""What is read of a connection at once. Each piece is taken in without a pause."""
_SMALL_PIECE_BYTES = 2 * 1024
_LONG_S = 0.005
"""A piece that took longer to take in is followed by a small one: frames of few bytes take the longest."""


class Network(httpcore2.AsyncNetworkStream):
    """A stream of ours as httpcore2 wants it. Timeouts are the exchange's.

    Parameters:
        stream: the stream.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._account: Account | None = None
        self._unread = 0
        self._given_at = 0.0
        self.gone = stream.gone
        self.abort = stream.abort

    def count(self, account: Account) -> None:
        """Count what is read until `delivered` or `settle` says that it is held no more: HTTP/2 streams wait there."""
        self._account = account

    def delivered(self, size: int) -> None:
        """So many bytes of content are held elsewhere now."""
        self._give(min(size, self._unread))

    def settle(self) -> None:
        """Nothing that was read is held any more."""
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
        if self._account is not None:
            self._account.take(len(data))
            self._unread += len(data)
        # An origin that always has something to say would otherwise keep the loop from its clocks.
        await asyncio.sleep(0)
        self._given_at = time.monotonic()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore2."""
        await self._stream.write(buffer)

    async def aclose(self) -> None:
        """See httpcore2."""
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
            return self._stream.stirred()
        return self._stream.tls if info == "ssl_object" else None


class Backend(httpcore2.AsyncNetworkBackend):
    """The network for one connection to a proxy, which the operator named: nothing here asks a binding's policy."""

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

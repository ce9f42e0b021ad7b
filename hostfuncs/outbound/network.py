"""Sockets: looks up names, connects, and provides the streams of connections.

The event loop does not run while the guest computes. So a stream can tell without the loop whether its socket has
something to read: an idle HTTP/1.1 connection that has was closed, or is out of step.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import zip_longest
from typing import Any, Protocol, cast

from hostfuncs.outbound.addresses import Address
from hostfuncs.outbound.body import Buffer
from hostfuncs.outbound.inline_task import Suspension

LOOK_UPS = 8
"""The most names that are looked up at once. Further ones wait."""
ATTEMPT_DELAY_S = 0.25
"""The time without an answer after which the next address is tried, too. It is that of RFC 8305, section 8."""
ATTEMPTS_AT_ONCE = 8
"""The most addresses of one origin that are tried at once. The origin's DNS may return any number."""
_HIGH_WATER = 64 * 1024
_RECEIVE_BYTES = 64 * 1024


class Resolver(Protocol):
    """Resolves names."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a host, in the order in which to try them. Raises socket.gaierror."""
        ...


class SystemResolver:
    """Resolves names by getaddrinfo(3), on threads of its own."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._asked: set[Future[Any]] = set()

    @property
    def busy(self) -> bool:
        """Whether a look-up holds a thread, even if its caller has given up: getaddrinfo cannot be interrupted."""
        return any(look_up.running() for look_up in list(self._asked))

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses by the system's resolver, with the hosts file and search domains. See Resolver."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOK_UPS, thread_name_prefix="resolve")
        # As bytes, so that no second codec reads the name in another way than the policy did.
        name = host.encode("ascii")
        look_up = self._threads.submit(socket.getaddrinfo, name, port, type=socket.SOCK_STREAM)
        self._asked.add(look_up)
        look_up.add_done_callback(self._asked.discard)
        found = await asyncio.wrap_future(look_up)
        return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


@cache
def _landing() -> memoryview:
    """Return the buffer into which all streams receive. The bytes are copied from it at once."""
    return memoryview(bytearray(_RECEIVE_BYTES))


class Stream(asyncio.BufferedProtocol):
    """A TCP or TLS connection, directly on an asyncio transport.

    Parameters:
        loop: the event loop.
        sock: its socket. The transport closes it.
        in_place: whether the reader is resumed within the call that brings the bytes (see `InlineTask`), and not by the
            next pass of the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, in_place: bool) -> None:
        self._loop = loop
        self._socket = sock
        self._transport: asyncio.Transport | None = None
        self._landing = _landing()
        self._buffer = Buffer()
        self._paused = False
        self._eof = False
        self._lost: Exception | None = None
        self._is_lost = False
        self._suspension = Suspension() if in_place else None
        self._reader: asyncio.Future[None] | None = None
        self._drain: asyncio.Future[None] | None = None
        self._full = False

    # for asyncio. With a plain Protocol, each read would map and unmap a quarter of a mebibyte.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection is established."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: return the buffer for the next read. `buffer_updated` follows at once and copies the bytes."""
        return self._landing

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio: bytes arrived."""
        self._took(bytes(self._landing[:nbytes]))
        self.arrived()

    def _took(self, data: bytes) -> None:
        self._buffer.append(data)
        if self._buffer.size > _HIGH_WATER and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """asyncio: the peer will send no more."""
        self.ended()
        self.arrived()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self.lost(exc)
        self.arrived()

    def pause_writing(self) -> None:
        """asyncio: the transport's buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """asyncio: the transport's buffer has drained."""
        self._full = False
        self._wake(self._drain)

    # for connections

    async def read(self, max_bytes: int) -> bytes:
        """Return the bytes that have arrived, at most `max_bytes`. Wait if there are none. Return b"" at the end.

        Raises:
            OSError, ssl.SSLError: the connection broke.
        """
        while not self._buffer.size:
            if self._lost is not None:
                raise self._lost
            if self._eof or self._is_lost:
                return b""
            if self._suspension is not None:
                await self._suspension
            else:
                self._reader = self._loop.create_future()
                await self._reader
        chunk = self._buffer.take(max_bytes)
        if self._paused and self._buffer.size <= _HIGH_WATER // 2 and self._transport is not None and not self._is_lost:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def write(self, buffer: bytes) -> None:
        """Hand bytes to the kernel, and wait while the peer does not take them.

        Raises:
            OSError: the connection is gone.
        """
        if not buffer:
            return
        self.push(buffer)
        while self._full and not self._is_lost:
            self._drain = self._loop.create_future()
            await self._drain
        if self._lost is not None:
            raise self._lost

    def push(self, buffer: bytes) -> None:
        """Write without waiting. It is for small pieces that must not be delayed."""
        if self._is_lost or self._transport is None or self._transport.is_closing():
            raise self._lost or ConnectionResetError("the connection is closed")
        self._transport.write(buffer)

    def abort(self) -> None:
        """Close at once, without flushing. Callers have got all they wanted, or want no more."""
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None) -> None:
        """Start TLS as a client.

        Raises:
            ssl.SSLError, OSError: the handshake failed.
        """
        assert self._transport is not None
        inside = _TlsProtocol(self, self._loop)
        try:
            secured = await self._loop.start_tls(self._transport, inside, ssl_context, server_hostname=server_hostname)
        except BaseException:
            self._transport.abort()
            raise
        assert secured is not None
        self._transport = secured

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS object; None without TLS."""
        return None if self._transport is None else self._transport.get_extra_info("ssl_object")

    def saw_activity(self) -> bool:
        """Return whether the event loop has noticed anything of the peer since the last read."""
        if self._buffer.size or self._eof or self._is_lost:
            return True
        return self._transport is None or self._transport.is_closing()

    def has_activity(self) -> bool:
        """Return whether the peer has sent, closed or reset since the last read. It asks the kernel, too."""
        return self.saw_activity() or self._peek() is not None

    def gone(self) -> bool:
        """Return whether the peer has closed. It asks the kernel, too. It is false while there are bytes to read."""
        if self._eof or self._is_lost or self._transport is None or self._transport.is_closing():
            return True
        return self._peek() == b""

    def _peek(self) -> bytes | None:
        """Return at most one byte that waits in the socket; None if there is none, b"" at the end or on an error."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def decrypted(self, data: bytes) -> None:
        """Add bytes that came through TLS. The caller calls `arrived` afterwards."""
        self._took(data)

    def ended(self) -> None:
        """Record that the peer will send no more. The caller calls `arrived` afterwards."""
        self._eof = True

    def lost(self, exc: Exception | None) -> None:
        """Record that the connection is gone. The caller calls `arrived` afterwards."""
        self._is_lost = True
        self._lost = exc
        self._wake(self._drain)

    def arrived(self) -> None:
        """Resume the reader."""
        if self._suspension is not None:
            self._suspension.wake()
        else:
            self._wake(self._reader)

    @staticmethod
    def _wake(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)


class _TlsProtocol(asyncio.Protocol):
    """The protocol inside asyncio's TLS, which passes everything to a stream.

    It is not a BufferedProtocol: when the peer closes, asyncio would fill its buffer once and drop the rest. The loop's
    next pass resumes the reader, since the reader may close the connection while asyncio itself is closing it.

    Parameters:
        stream: the stream.
        loop: its event loop.
    """

    def __init__(self, stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop

    def data_received(self, data: bytes) -> None:
        self._stream.decrypted(data)
        self._loop.call_soon(self._stream.arrived)

    def eof_received(self) -> None:
        self._stream.ended()
        self._loop.call_soon(self._stream.arrived)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.lost(exc)
        self._loop.call_soon(self._stream.arrived)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()


async def adopt(sock: socket.socket, *, in_place: bool = False) -> Stream:
    """Return a stream on a connected socket. The stream owns the socket. On an error the socket is closed.

    Parameters:
        sock: a connected socket in non-blocking mode.
        in_place: see `Stream`.
    """
    loop = asyncio.get_running_loop()
    made = Stream(loop, sock, in_place)
    try:
        _, stream = await loop.create_connection(lambda: made, sock=sock)
    except BaseException:
        made.abort()
        sock.close()
        raise
    return stream


async def open_socket(addresses: Sequence[Address], port: int) -> socket.socket:
    """Connect to the first of several addresses that answers.

    The address families alternate (RFC 8305, section 4), so that one without a route costs a single delay. If an
    address has not answered after ATTEMPT_DELAY_S, the next is tried, too (section 5). The first to succeed wins. At
    most ATTEMPTS_AT_ONCE attempts run at once, however many addresses there are.

    Parameters:
        addresses, port: the addresses and the port. No other address is used.

    Returns:
        the connected socket in non-blocking mode. The caller closes it.

    Raises:
        OSError: every attempt failed. It is the error of the last one.
    """
    loop = asyncio.get_running_loop()
    if len(addresses) == 1:
        return await _connect_one(loop, addresses[0], port)
    attempts: list[asyncio.Task[socket.socket]] = []
    failure: BaseException = OSError("there was no address to connect to")
    waiting = interleaved(addresses)
    winner: socket.socket | None = None
    try:
        while winner is None:
            if waiting and len(attempts) < ATTEMPTS_AT_ONCE:
                attempts.append(loop.create_task(_connect_one(loop, waiting.pop(0), port)))
            running = [task for task in attempts if not task.done()]
            if running:
                more = waiting and len(attempts) < ATTEMPTS_AT_ONCE
                await asyncio.wait(
                    running, timeout=ATTEMPT_DELAY_S if more else None, return_when=asyncio.FIRST_COMPLETED
                )
            for task in [task for task in attempts if task.done()]:
                attempts.remove(task)
                error = task.exception()
                if error is not None:
                    failure = error
                elif winner is None:
                    winner = task.result()
                else:
                    task.result().close()
            if winner is None and not attempts and not waiting:
                raise failure
        return winner
    finally:
        # The tasks are not awaited: a cancellation there would lose the sockets that are connected.
        for task in attempts:
            task.cancel()
            task.add_done_callback(_close_loser)


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses with alternating families, the first one's first. Each family keeps its order."""
    first = [address for address in addresses if address.version == addresses[0].version]
    second = [address for address in addresses if address.version != addresses[0].version]
    pairs = zip_longest(first, second)
    return [address for pair in pairs for address in pair if address is not None]


def _close_loser(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _connect_one(loop: asyncio.AbstractEventLoop, address: Address, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        target = (str(address), port)
        number = sock.connect_ex(target)
        if number == errno.EINPROGRESS:
            # An origin on this machine has accepted by now. Asking again is less than three turns of the event loop.
            number = sock.connect_ex(target)
        if number == errno.EALREADY:
            await loop.sock_connect(sock, target)
        elif number:
            raise OSError(number, os.strerror(number))
    except BaseException:
        sock.close()
        raise
    return sock


def parse_addresses(texts: Iterable[str]) -> list[Address]:
    """Return the addresses among the texts of a resolver."""
    found: list[Address] = []
    for text in texts:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_address(text))
    return found

"""Sockets: resolve once, check every address, connect to one that passed, and know what the peer did meanwhile.

The event loop stands still while the guest computes, so a stream has to be able to say, without the loop, whether
something waits in its socket: an idle HTTP/1.1 connection with anything to read has been closed, or is out of step.
"""

import asyncio
import contextlib
import ipaddress
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
"""Names looked up at once; further ones wait."""
ATTEMPT_DELAY_S = 0.25
"""How long an address may be silent before the next is tried beside it: the delay that RFC 8305, section 8 gives."""
ATTEMPTS_AT_ONCE = 8
"""The most addresses of one origin that are tried beside each other. How many there are is up to its DNS."""
_HIGH_WATER = 64 * 1024
_RECEIVE_BYTES = 64 * 1024


class Resolver(Protocol):
    """Turns names into addresses."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return addresses in the order to try them. Raises socket.gaierror."""
        ...


class SystemResolver:
    """getaddrinfo on threads of its own."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._asked: set[Future[Any]] = set()

    @property
    def busy(self) -> bool:
        """Return whether a look-up still holds a thread, even if nobody waits for it: none can be stopped."""
        return any(look_up.running() for look_up in list(self._asked))

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Ask the system, hosts file and search domains included. Raises socket.gaierror."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOK_UPS, thread_name_prefix="resolve")
        # As bytes: the name was read once, and no second codec is to read it otherwise.
        name = host.encode("ascii")
        look_up = self._threads.submit(socket.getaddrinfo, name, port, type=socket.SOCK_STREAM)
        self._asked.add(look_up)
        look_up.add_done_callback(self._asked.discard)
        found = await asyncio.wrap_future(look_up)
        return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


@cache
def _landing() -> memoryview:
    """Return the buffer that all streams receive into, before the bytes are copied out. The first stream makes it."""
    return memoryview(bytearray(_RECEIVE_BYTES))


class Stream(asyncio.BufferedProtocol):
    """A TCP or TLS connection, straight on an asyncio transport.

    Parameters:
        loop: the loop.
        sock: its socket, which stays the transport's to close.
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

    # asyncio.BufferedProtocol: a plain one would have a quarter of a mebibyte mapped and unmapped for every read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio: where to read to; copied out by the `buffer_updated` that follows at once."""
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
        """asyncio: it has drained."""
        self._full = False
        self._wake(self._drain)

    # for connections

    async def read(self, max_bytes: int) -> bytes:
        """Return what has arrived, b"" at the end.

        Raises:
            OSError, ssl.SSLError: the connection broke, as the transport said it.
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
        """Hand bytes to the kernel, waiting while the peer does not take them.

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
        """Close at once. Nothing is flushed: whoever closes has had all it wanted, or wants no more."""
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None) -> None:
        """Speak TLS from here on.

        Raises:
            ssl.SSLError, OSError: the handshake failed.
        """
        assert self._transport is not None
        inside = _Inside(self, self._loop)
        try:
            secured = await self._loop.start_tls(self._transport, inside, ssl_context, server_hostname=server_hostname)
        except BaseException:
            self._transport.abort()
            raise
        assert secured is not None
        self._transport = secured

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS under way; None without."""
        return None if self._transport is None else self._transport.get_extra_info("ssl_object")

    def noticed(self) -> bool:
        """Return whether the loop has seen the peer do anything since the last read."""
        if self._buffer.size or self._eof or self._is_lost:
            return True
        return self._transport is None or self._transport.is_closing()

    def stirred(self) -> bool:
        """Return whether the peer sent, closed or reset since the last read. Asks the kernel, not the event loop."""
        return self.noticed() or self._peek() is not None

    def gone(self) -> bool:
        """Return whether the peer has closed, by a look into the socket; false while bytes are still to be read."""
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

    def deciphered(self, data: bytes) -> None:
        """From inside TLS: bytes arrived. `arrived` is to follow."""
        self._took(data)

    def ended(self) -> None:
        """The peer will send no more. `arrived` is to follow."""
        self._eof = True

    def lost(self, exc: Exception | None) -> None:
        """The connection is gone. `arrived` is to follow."""
        self._is_lost = True
        self._lost = exc
        self._wake(self._drain)

    def arrived(self) -> None:
        """Resume whoever reads."""
        if self._suspension is not None:
            self._suspension.wake()
        else:
            self._wake(self._reader)

    @staticmethod
    def _wake(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)


class _Inside(asyncio.Protocol):
    """The protocol inside asyncio's TLS, on behalf of a stream.

    No BufferedProtocol: when the peer closes, asyncio fills the buffer of one once and drops what is left. And whoever
    reads is resumed by the loop's next pass, since it may close the connection, in the midst of asyncio's own closing.

    Parameters:
        stream: on whose behalf.
        loop: its loop.
    """

    def __init__(self, stream: Stream, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop

    def data_received(self, data: bytes) -> None:
        self._stream.deciphered(data)
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
    """Return a stream on a connected socket. The socket becomes the stream's; it is closed if there is none.

    Parameters:
        sock: connected, not blocking.
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
    """Connect to the first address that answers, never to anything but these addresses.

    The families take turns (RFC 8305, section 4), so that one that leads nowhere costs a single pause. Each attempt but
    the last gives way to the next after ATTEMPT_DELAY_S without an answer and goes on beside it (section 5); the first
    to succeed wins. At most ATTEMPTS_AT_ONCE are under way, however many addresses a name has.

    Parameters:
        addresses, port: where to.

    Returns:
        the connected socket, which does not block and is the caller's to close.

    Raises:
        OSError: every attempt failed; the last failure.
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
        # Not awaited: being cancelled there would lose what they, and we, have connected.
        for task in attempts:
            task.cancel()
            task.add_done_callback(_close_loser)


def interleaved(addresses: Sequence[Address]) -> list[Address]:
    """Return the addresses with the families in turn, beginning with the first's; within one in the order given."""
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
        await loop.sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def parse_addresses(texts: Iterable[str]) -> list[Address]:
    """Read what a resolver returned, leaving out what is not an address."""
    found: list[Address] = []
    for text in texts:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_address(text))
    return found

"""Sockets: resolve once, check every address, connect to one that passed, and know what the peer did meanwhile.

The event loop stands still while the guest computes, so a stream has to be able to say, without the loop, whether
something waits in its socket: an idle HTTP/1.1 connection with anything to read has been closed, or is out of step.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol, cast

from hostfuncs.outbound.addresses import Address
from hostfuncs.outbound.steps import Parking

LOOK_UPS = 8
"""Names looked up at once; further ones wait."""
_HIGH_WATER = 256 * 1024
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
        """Whether a look-up still holds a thread, be it that nobody waits for it any more: none can be interrupted."""
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
    """Where bytes land before they are copied out: one piece of memory for all streams, made with the first of them."""
    return memoryview(bytearray(_RECEIVE_BYTES))


class Stream(asyncio.BufferedProtocol):
    """A TCP or TLS connection, straight on an asyncio transport; has what httpcore2 asks of a stream.

    Parameters:
        loop: the loop.
        sock: its socket, which stays the transport's to close.
        in_place: whether whoever reads is resumed within the call that brings the bytes (see `Steps`) and not by the
            loop's next pass.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, in_place: bool) -> None:
        self._loop = loop
        self._socket = sock
        self._transport: asyncio.Transport | None = None
        self._landing = _landing()
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._eof = False
        self._lost: Exception | None = None
        self._is_lost = False
        self._parking = Parking() if in_place else None
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
        self._chunks.append(bytes(self._landing[:nbytes]))
        self._took(nbytes)
        self.arrived()

    def _took(self, nbytes: int) -> None:
        self._held += nbytes
        if self._held > _HIGH_WATER and not self._paused and self._transport is not None:
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

    # as httpcore2.AsyncNetworkStream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has arrived, b"" at the end.

        Raises:
            OSError, ssl.SSLError: the connection broke, as the transport said it.
        """
        while not self._chunks:
            if self._lost is not None:
                raise self._lost
            if self._eof or self._is_lost:
                return b""
            if self._parking is not None:
                await self._parking
            else:
                self._reader = self._loop.create_future()
                await self._reader
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._held -= len(chunk)
        if self._paused and self._held <= _HIGH_WATER // 2 and self._transport is not None and not self._is_lost:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
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
        """As `write`, without waiting. For what is small and must not be held up."""
        if self._is_lost or self._transport is None or self._transport.is_closing():
            raise self._lost or ConnectionResetError("the connection is closed")
        self._transport.write(buffer)

    async def aclose(self) -> None:
        """As `abort`."""
        self.abort()

    def abort(self) -> None:
        """Close at once. Nothing is flushed: whoever closes has had all it wanted, or wants no more."""
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "Stream":
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
        return self

    def get_extra_info(self, info: str) -> Any:
        """`ssl_object`, `socket`, `server_addr`, `is_readable`."""
        if self._transport is None:
            return None
        if info == "ssl_object":
            return self._transport.get_extra_info("ssl_object")
        if info == "socket":
            return self._transport.get_extra_info("socket")
        if info == "server_addr":
            return self._transport.get_extra_info("peername")
        if info == "is_readable":
            return self.stirred()
        return None

    def noticed(self) -> bool:
        """Whether the loop has seen the peer do anything since the last read."""
        if self._chunks or self._eof or self._is_lost:
            return True
        return self._transport is None or self._transport.is_closing()

    def stirred(self) -> bool:
        """Whether the peer did anything since the last read: sent, closed or reset. Asks the kernel, not the loop."""
        return self.noticed() or self._peek() is not None

    def gone(self) -> bool:
        """Whether the peer has closed, told from a look into the socket; false while bytes are still to be read."""
        if self._eof or self._is_lost or self._transport is None or self._transport.is_closing():
            return True
        return self._peek() == b""

    def _peek(self) -> bytes | None:
        """What lies in the socket, at most a byte; None for nothing, b"" for the end or an error."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def deciphered(self, data: bytes) -> None:
        """From inside TLS: bytes arrived. `arrived` is to follow."""
        self._chunks.append(data)
        self._took(len(data))

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
        if self._parking is not None:
            self._parking.wake()
        else:
            self._wake(self._reader)

    @staticmethod
    def _wake(future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)


class _Inside(asyncio.Protocol):
    """What asyncio's TLS talks to on a stream's behalf.

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


async def connect(addresses: Sequence[Address], port: int, *, in_place: bool = False) -> Stream:
    """Connect to the first address that answers, never to anything but these addresses.

    Each attempt but the last gives way to the next after a quarter of a second without an answer and goes on beside
    it (RFC 8305 section 5); the first to succeed wins.

    Parameters:
        addresses, port: where to.
        in_place: see `Stream`.

    Raises:
        OSError: every attempt failed; the last failure.
    """
    loop = asyncio.get_running_loop()
    attempts: list[asyncio.Task[socket.socket]] = []
    failure: BaseException = OSError("there was no address to connect to")
    waiting = list(addresses)
    winner: socket.socket | None = None
    made: Stream | None = None
    try:
        while winner is None:
            if waiting:
                attempts.append(loop.create_task(_connect_one(loop, waiting.pop(0), port)))
            running = [task for task in attempts if not task.done()]
            if running:
                await asyncio.wait(running, timeout=0.25 if waiting else None, return_when=asyncio.FIRST_COMPLETED)
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
        made = Stream(loop, winner, in_place)
        _, stream = await loop.create_connection(lambda: made, sock=winner)
        return stream
    except BaseException:
        if made is not None:
            made.abort()
        if winner is not None:
            winner.close()
        raise
    finally:
        # Not awaited: being cancelled there would lose what they, and we, have connected.
        for task in attempts:
            task.cancel()
            task.add_done_callback(_close_loser)


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
    """Read what a resolver returned, leaving out what is no address."""
    found: list[Address] = []
    for text in texts:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_address(text))
    return found

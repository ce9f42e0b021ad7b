"""Cuts off callers over gRPC who send what is no call.

grpcio parses HTTP/2 by itself, frame by frame, and bounds neither how many frames ask for nothing nor how long one
connection keeps a thread of its own busy: a hundred connections with CONTINUATION frames without end held up everybody
else for 6 to 12 s. None of its options changes that. So the front asks the kernel how many bytes each connection has
received, and compares them with what its calls account for. Whoever sent much more is reset, and its host is let in
again after some seconds only: else it would come back at once, and keep the threads as busy as before.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from sandboxd.front.grpc.shut_out import shut_out
from sandboxd.front.grpc.status import Metadata

FLOOD: Final = "flood"
FREE_BYTES: Final = 256 * 1024
"""What a connection may send without any call: the TLS handshake, settings, pings, calls that are on their way."""
FREE_PER_S: Final = 4 * 1024
"""What it may send besides, as long as it stands: pings, and calls of grpcio's own services."""
SURE_S: Final = 0.2
SURE_LOOKS: Final = 4
"""A connection is reset that has sent too much for so long, at so many looks, while no call of its came on."""
KNOWN_S: Final = 3.0
"""For so long after a flood its host is not let in again, and its other connections that make no call are reset at
once."""
CALL_BYTES: Final = 4 * 1024
"""What a call takes beside its headers and its message."""
OVERHEAD: Final = 1.25
"""Bytes on the wire for each of a message: frames, and TLS records."""
FASTEST_PER_S: Final = 64 * 1024 * 1024
"""What may have come in a second of a message that was given up."""
CALM_S: Final = 0.1
HOT_S: Final = 0.02
"""Pauses between two looks at the processor time: as a rule, and while grpcio's threads work."""
LEAST_WORK_S: Final = 0.01
"""The processor time of grpcio's threads after which the connections are looked at."""
SHARE: Final = 0.05
"""To look at them takes no more than this share of that time."""
FORGET_S: Final = 30.0
"""They are looked at so often in any case, and accounts without a connection are dropped."""

# include/uapi/linux/tcp.h, struct tcp_info; since Linux 4.1.
_INFO_BYTES: Final = 256
_RECEIVED: Final = struct.Struct("=128xQ")


class Account:
    """What one connection may send."""

    __slots__ = ("allowed", "calls", "looks", "over", "since", "unread")

    def __init__(self, now: float) -> None:
        self.since = now
        self.calls = 0
        """How often a call has begun, or its message has come."""
        self.over = (now, -1)
        """Since when it has sent too much, and `calls` at that time."""
        self.looks = 0
        """How many looks in a row have found that."""
        self.allowed = float(FREE_BYTES)
        self.unread = 0
        """Calls whose message has not come yet."""


class Floods:
    """The accounts of all connections. It belongs to the event loop.

    Parameters:
        port: on which grpcio listens.
        message_bytes: the longest message that is read.
        streams: the most calls of one connection at once.
        turned_away: counts callers that are cut off, by the reason.
    """

    def __init__(self, port: int, message_bytes: int, streams: int, turned_away: Callable[[str], None]) -> None:
        self._port = port
        self._message_bytes = message_bytes * OVERHEAD
        self._most_pending = streams * self._message_bytes
        self._turned_away = turned_away
        self._accounts: dict[str, Account] = {}
        self._known: dict[str, float] = {}
        """Host -> until when a flood is expected from there."""
        self._reset = ctypes.CDLL(None, use_errno=True).connect

    def __repr__(self) -> str:
        return f"<Floods with {len(self._accounts)} accounts>"

    def began(self, peer: str) -> Account:
        """A call has begun, and its message is awaited.

        Parameters:
            peer: as grpcio has it.
        """
        account = self._accounts.get(peer)
        if account is None:
            account = self._accounts[peer] = Account(time.monotonic())
        account.unread += 1
        account.calls += 1
        return account

    def ended(self, account: Account, headers: Metadata, size: int | None, seconds: float) -> None:
        """A call's message has come, or is not awaited any more.

        Parameters:
            account: from `began`.
            headers: of the call.
            size: of its message, in bytes; None if a part of it may have come, nobody knows how much.
            seconds: how long it was awaited.
        """
        account.unread -= 1
        account.calls += 1
        account.allowed += CALL_BYTES + sum(len(name) + len(value) for name, value in headers)
        account.allowed += min(self._message_bytes, seconds * FASTEST_PER_S) if size is None else size * OVERHEAD

    async def watch(self) -> None:
        """Look at the connections whenever grpcio's threads have worked. Runs until it is cancelled."""
        cost, looked, worked = 0.0, time.monotonic(), _others_worked()
        while True:
            work = _others_worked() - worked
            await asyncio.sleep(HOT_S if work >= LEAST_WORK_S / 2 else CALM_S)
            now, work = time.monotonic(), _others_worked() - worked
            # A machine that is busy otherwise gives them little time: how much they have worked counts, not how fast.
            if work < max(LEAST_WORK_S, cost / SHARE) and now - looked < (KNOWN_S if self._known else FORGET_S):
                continue
            began = time.thread_time()
            self.look(now)
            cost, looked, worked = time.thread_time() - began, now, _others_worked()

    def look(self, now: float) -> None:
        """Reset every connection that has sent too much, and forget those that are gone.

        Parameters:
            now: CLOCK_MONOTONIC, in seconds.
        """
        found: dict[str, Account] = {}
        listeners: list[socket.socket] = []
        for descriptor in _sockets():
            connection = socket.socket(fileno=descriptor)
            if self._listens(connection):
                listeners.append(connection)
                continue
            with contextlib.suppress(OSError), connection:
                peer, received = self._of_caller(connection)
                if not peer:
                    continue
                account = found[peer] = self._accounts.get(peer) or Account(now)
                most = account.allowed + account.unread * self._message_bytes + (now - account.since) * FREE_PER_S
                if self._is_flood(peer, account, received - most, now):
                    # Disconnecting drops what waits to be read, and it is reading that costs. Python cannot ask for it.
                    self._reset(connection.fileno(), struct.pack("=H14x", socket.AF_UNSPEC), 16)
                    self._turned_away(FLOOD)
                    self._known[_host_of(peer)] = now + KNOWN_S
                    del found[peer]
        self._known = {host: until for host, until in self._known.items() if until > now}
        for listener in listeners:
            with contextlib.suppress(OSError), listener:
                shut_out(listener, self._known)
        # Calls that are still under way keep theirs.
        self._accounts = {peer: one for peer, one in self._accounts.items() if one.unread} | found

    def _is_flood(self, peer: str, account: Account, excess: float, now: float) -> bool:
        """Return whether it is sure by now that an account is overdrawn.

        Calls may have come that have not reached the event loop: then some of them will soon.
        """
        if excess <= 0:
            account.looks = 0
            return False
        if account.looks == 0 or account.over[1] != account.calls:
            account.over = (now, account.calls)
            account.looks = 0
        account.looks += 1
        known = not account.calls and self._known.get(_host_of(peer), 0.0) > now
        silent = account.looks >= SURE_LOOKS and now - account.over[0] >= SURE_S
        return known or silent or excess > self._most_pending

    def _listens(self, connection: socket.socket) -> bool:
        """Return whether it is a socket on which grpcio accepts callers."""
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return False
        accepts: int = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(accepts) and connection.getsockname()[1] == self._port

    def _of_caller(self, connection: socket.socket) -> tuple[str, int]:
        """Return the peer of a caller's connection, as grpcio has it, and how many bytes came from it.

        Raises:
            OSError: it is not connected.
        """
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return "", 0
        if connection.getsockname()[1] != self._port:
            return "", 0
        host, port = connection.getpeername()[:2]
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if len(info) < _RECEIVED.size:
            return "", 0
        return peer_of(host, port), _RECEIVED.unpack_from(info)[0]


def peer_of(host: str, port: int) -> str:
    """Return an address as grpcio's `ServicerContext.peer` has it."""
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"ipv6:%5B{host.replace('%', '%25')}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _host_of(peer: str) -> str:
    host = peer.rpartition(":")[0].partition(":")[2]
    return host.removeprefix("%5B").removesuffix("%5D").replace("%25", "%")


def _others_worked() -> float:
    """Return the processor time that threads other than this one have taken. Seconds."""
    return time.process_time() - time.thread_time()


def _sockets() -> list[int]:
    """Return a descriptor of our own for each socket of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.append(os.dup(int(name)))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                break
    return found

"""Hostile callers over real sockets, and what they cost the front."""

import contextlib
import select
import socket
from pathlib import Path

from tests.server.fronts import Front
from tests.waiting import BOUND_S

MIB = 1024 * 1024


def connect(front: Front, timeout: float = BOUND_S) -> socket.socket:
    """A connection to the front."""
    return socket.create_connection(("127.0.0.1", front.port), timeout=timeout)


def resident(front: Front) -> int:
    """Bytes of memory that the front's process holds."""
    status = Path(f"/proc/{front.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def most_resident(front: Front) -> int:
    """The most bytes of memory that the front's process has held so far."""
    status = Path(f"/proc/{front.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def pour(connection: socket.socket, data: bytes, most: int, patience: float = 15) -> int:
    """Send `data` again and again, without reading, until the peer takes no more.

    Parameters:
        most: bytes to send at the most.
        patience: how long the peer may take nothing before this gives up. Seconds.

    Returns:
        bytes that were sent.
    """
    block = data * max(1, 65536 // len(data))
    sent = 0
    connection.setblocking(False)
    with contextlib.suppress(ConnectionError):
        while sent < most and select.select((), (connection,), (), patience)[1]:
            # The next piece begins where the last one ended within `data`.
            sent += connection.send(block[sent % len(data) :])
    return sent


def read_all(connection: socket.socket) -> bytes:
    """Return what the peer sends until it closes or resets the connection."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            answer += part
    return answer


def statuses(answer: bytes) -> list[int]:
    """The statuses of HTTP/1 answers whose bodies do not look like one."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]

"""The listening sockets of the cells: one per cell on the same port, or one inherited socket that all cells share."""

import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Any, Final

from sandboxd.cells.reuseport import assign
from sandboxd.config.model import Listen
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.log import fields
from sandboxd.server.sockets import address_of, listen_unix, remedy_of

log = logging.getLogger("sandboxd.cells")

BACKLOG: Final = 2048
"""Connections that may wait in each socket's queue; the kernel lowers it to net.core.somaxconn."""


class Listeners:
    """The supervisor's listening sockets. They stay open, so that no connection is refused while a cell restarts.

    Parameters:
        sockets: one per cell, listening in one SO_REUSEPORT group in this order; or a single one that all cells share.
    """

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = list(sockets)
        self._assignable = len(self._sockets) > 1
        self._targets: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<Listeners {self.address} for cells {list(self._targets)}>"

    @property
    def address(self) -> str:
        """host:port, or the path of a Unix socket."""
        return address_of(self._sockets[0])

    def fd(self, number: int) -> int:
        """Return the descriptor of a cell's socket."""
        return self._sockets[number if len(self._sockets) > 1 else 0].fileno()

    def assign_to(self, numbers: Sequence[int]) -> None:
        """Give new connections to these cells only, from now on. It has no effect on a shared socket.

        Parameters:
            numbers: the cells' numbers, at least one.
        """
        targets = tuple(numbers)
        if not self._assignable or targets == self._targets:
            return
        try:
            assign(self._sockets[0], targets)
            self._targets = targets
        except OSError as error:
            self._assignable = False
            log.warning(
                "the kernel refuses the program that assigns connections to cells (%s): a connection assigned to a "
                "cell that is not ready waits until it is",
                error.strerror,
                extra=fields(event="not_steered"),
            )

    def close(self) -> None:
        """Close the supervisor's copies. A connection that nobody has accepted ends when the last copy is closed."""
        for held in self._sockets:
            held.close()


def bind(host: str, port: int, cells: int) -> Listeners:
    """Open one listening socket per cell.

    Parameters:
        host: an address, or a name whose first address is used.
        port: 0 chooses a free port, the same for all.
        cells: the number of sockets, at least 1.

    Raises:
        SandboxdError: the address cannot be bound.
    """
    with contextlib.ExitStack() as failed:
        try:
            family, kind, protocol, _, found = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            address: Any = found
            sockets: list[socket.socket] = []
            for number in range(cells):
                listener = socket.socket(family, kind, protocol)
                failed.callback(listener.close)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
                if number == 0:
                    # The first is bound without SO_REUSEPORT. With it, the kernel would add this socket to the group
                    # of another server on this port, and half of that server's connections would come here.
                    listener.bind(address)
                    address = listener.getsockname()
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if number > 0:
                    listener.bind(address)
                sockets.append(listener)
            for listener in sockets:  # in order: `reuseport.assign` names a socket by its position in the group
                listener.listen(BACKLOG)
                listener.setblocking(False)
        except (OSError, UnicodeError) as error:  # the latter of a host that is no name
            raise _refused(f"{host}:{port}", error) from error
        failed.pop_all()
    return Listeners(sockets)


def inherit(fd: int) -> Listeners:
    """Take over a socket that already listens. All cells accept from it.

    Raises:
        SandboxdError: the descriptor is not a socket.
    """
    try:
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
    except OSError as error:
        raise _refused(f"descriptor {fd}", error) from error
    return Listeners([listener])


def open_listeners(listen: Listen, cells: int, fd: int | None) -> Listeners:
    """Open the sockets of all cells, or take over the one that is inherited.

    Parameters:
        listen: where.
        cells: the number of cells, at least 1. They share a Unix socket.
        fd: an inherited socket; None opens new ones.

    Raises:
        SandboxdError: the address cannot be bound, or the descriptor is not a socket.
    """
    if fd is not None:
        return inherit(fd)
    if listen.unix_socket is None:
        return bind(listen.host, listen.port, cells)
    try:
        return Listeners([listen_unix(listen.unix_socket)])
    except OSError as error:
        raise _refused(listen.unix_socket, error) from error


def _refused(where: str, error: OSError | UnicodeError) -> SandboxdError:
    return SandboxdError(
        f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}",
        remedy=remedy_of(error),
        exit_code=ExitCode.LISTEN,
    )

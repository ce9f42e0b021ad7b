"""The listening sockets of the cells: one each on the same port, or one for all where it was inherited."""

import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sandboxd.cells.steering import steer
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.log import fields

log = logging.getLogger("sandboxd.cells")

BACKLOG: Final = 2048
"""Connections that may wait in each socket's queue; the kernel lowers it to net.core.somaxconn."""


class Listeners:
    """Sockets that the supervisor holds open as long as it serves, so that no restart of a cell refuses anybody.

    Parameters:
        sockets: one per cell, all listening in one SO_REUSEPORT group in this order; or one alone that all share.
    """

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = list(sockets)
        self._steers = len(self._sockets) > 1
        self._targets: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<Listeners {self.address} towards {list(self._targets)}>"

    @property
    def address(self) -> str:
        """host:port."""
        host, port = self._sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def fd(self, number: int) -> int:
        """The descriptor of a cell's socket."""
        return self._sockets[number if len(self._sockets) > 1 else 0].fileno()

    def send_to(self, numbers: Sequence[int]) -> None:
        """From now on give new connections to these cells only. Without effect on a shared socket.

        Parameters:
            numbers: at least one.
        """
        targets = tuple(numbers)
        if not self._steers or targets == self._targets:
            return
        try:
            steer(self._sockets[0], targets)
            self._targets = targets
        except OSError as error:
            self._steers = False
            log.warning(
                "the kernel takes no program that distributes connections (%s): those that fall to a cell that is "
                "not ready wait for it",
                error.strerror,
                extra=fields(event="not_steered"),
            )

    def close(self) -> None:
        """Stop listening, as far as the supervisor is concerned. Connections nobody accepted yet end with the last
        holder of their socket."""
        for held in self._sockets:
            held.close()


def bind(host: str, port: int, cells: int) -> Listeners:
    """One listening socket per cell.

    Parameters:
        host: an address or a name; the first address it resolves to is taken.
        port: 0 takes a free one, the same for all.
        cells: at least 1.

    Raises:
        SandboxdError: the address cannot be had.
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
                    # The first is bound without SO_REUSEPORT. With it, the kernel would let us into the group of
                    # another server that runs on this port, and half of its connections would come to us.
                    listener.bind(address)
                    address = listener.getsockname()
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if number > 0:
                    listener.bind(address)
                sockets.append(listener)
            for listener in sockets:  # in order: the position in the group is what steering names
                listener.listen(BACKLOG)
                listener.setblocking(False)
        except OSError as error:
            raise _refused(f"{host}:{port}", error) from error
        failed.pop_all()
    return Listeners(sockets)


def inherit(fd: int) -> Listeners:
    """A socket that somebody else has made listen; all cells accept from it.

    Raises:
        SandboxdError: the descriptor is no socket.
    """
    try:
        listener = socket.socket(fileno=fd)
        listener.setblocking(False)
    except OSError as error:
        raise _refused(f"descriptor {fd}", error) from error
    return Listeners([listener])


def open_listeners(host: str, port: int, cells: int, fd: int | None) -> Listeners:
    """`inherit` if there is a descriptor, else `bind`.

    Raises:
        SandboxdError: see there.
    """
    return bind(host, port, cells) if fd is None else inherit(fd)


def _refused(where: str, error: OSError) -> SandboxdError:
    return SandboxdError(
        f"cannot listen on {where}: {error.strerror or error}",
        remedy="choose another with --host and --port, or end the process that has it",
        exit_code=ExitCode.LISTEN,
    )


def inherited_fd(environ: Mapping[str, str], pid: int) -> int | None:
    """The first descriptor systemd passed to this process, if it passed any.

    Source: sd_listen_fds(3): descriptors begin at 3, and LISTEN_PID names the process they are meant for.
    """
    return 3 if environ.get("LISTEN_PID") == str(pid) else None

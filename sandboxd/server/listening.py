"""The listening socket of a server."""

import logging
import socket
from typing import Final

from sandboxd.config.model import Listen
from sandboxd.errors import ExitCode, SandboxdError
from sandboxd.front.servers.serving import listen
from sandboxd.log import fields
from sandboxd.server.sockets import address_of, listen_unix, remedy_of

log = logging.getLogger("sandboxd")

BACKLOG: Final = 2048
"""Connections that may wait to be accepted."""


def open_listener(config: Listen, fd: int | None) -> socket.socket:
    """Return the listening socket, and log its address.

    Parameters:
        config: the address to listen on.
        fd: an inherited socket, which is used instead; None if there is none.

    Returns:
        the socket. With `when_ready`, one of its own is bound and does not listen yet.

    Raises:
        SandboxdError: the address cannot be used, or the descriptor is not a socket.
    """
    backlog = None if config.when_ready else BACKLOG
    try:
        if fd is not None:
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
        elif config.unix_socket is not None:
            listener = listen_unix(config.unix_socket, backlog=backlog)
        else:
            listener = listen(config.host, config.port, backlog=backlog)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host cannot be a name
        address = config.unix_socket or f"{config.host}:{config.port}"
        where = f"descriptor {fd}" if fd is not None else address
        raise SandboxdError(
            f"cannot listen on {where}: {getattr(error, 'strerror', None) or error}",
            remedy=remedy_of(error),
            exit_code=ExitCode.LISTEN,
        ) from error
    log.info("listening", extra=fields(event="listening", address=address_of(listener)))
    return listener

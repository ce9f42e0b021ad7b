"""The address of the status page: taken once, and shared by the cells."""

import logging
import socket
from dataclasses import replace
from typing import Final

from sandboxd.config import Config
from sandboxd.config.admin import OFF, Address, parse
from sandboxd.errors import SandboxdError
from sandboxd.log import fields
from sandboxd.server.held_port import hold_port

log = logging.getLogger("sandboxd.admin")

REMEDY: Final = "choose another address with admin.listen, or off, or stop the process that uses this one"
_PURPOSE: Final = "for the status page "


def hold_admin_port(config: Config, *, replaces: bool) -> tuple[Config, socket.socket | None]:
    """Bind the port of the status page for the cells of a server.

    Parameters:
        config: of the server.
        replaces: this server may replace another one that still has the port.

    Returns:
        the settings for the cells, and the socket that holds the port; None where no port is needed or it is taken.

    Raises:
        SandboxdError: the port was asked for and is not available.
    """
    address = parse(config.admin.listen)
    if address is None or address.path:
        return config, None
    try:
        held = hold_port(address.host, address.port, purpose=_PURPOSE, remedy=REMEDY)
    except SandboxdError as error:
        if config.admin.listen is not None and not replaces:
            raise
        log_taken(error)
        return with_listen(config, OFF), None
    host, port = held.getsockname()[:2]
    return with_listen(config, str(Address(host=host, port=port))), held


def with_listen(config: Config, listen: str) -> Config:
    """Return the settings with another `admin.listen`."""
    return replace(config, admin=replace(config.admin, listen=listen))


def log_taken(error: SandboxdError) -> None:
    """Log that the server does without the page."""
    log.info("the status page is not served: %s", error, extra=fields(event="no_admin"))


def listen_shared(address: Address) -> socket.socket:
    """Return a socket that listens beside those of other cells on a port that the supervisor holds.

    Raises:
        OSError: it is not available.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address.host, address.port))
        listener.listen(64)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener

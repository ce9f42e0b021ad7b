"""Ports that several processes listen on, and Unix sockets.

The cells of a server listen on one port, each with a socket of its own, and join and leave while it runs. So the port
is held by a socket that never listens: it is bound without SO_REUSEPORT first, which tells whether the port is taken,
and the listening sockets join it. The kernel gives connections to sockets that listen only.
"""

import os
import socket
import stat
from typing import Any, Final

from sandboxd.errors import ExitCode, SandboxdError

REMEDY: Final = "choose another port with --grpc-port (0 serves no gRPC), or stop the process that uses this one"


def hold_port(host: str, port: int, *, purpose: str = "for gRPC ", remedy: str = REMEDY) -> socket.socket:
    """Bind a port for others' sockets, without listening.

    Parameters:
        host: an address or a name; the first address it resolves to is taken.
        port: 0 takes a free one.
        purpose, remedy: for the error.

    Raises:
        SandboxdError: it is taken or cannot be used.
    """
    try:
        family, kind, protocol, _, found = _first(host, port)
        address: Any = found
        held = socket.socket(family, kind, protocol)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # First bound without SO_REUSEPORT, which would join another server's group instead of telling of it.
            held.bind(address)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError:
            held.close()
            raise
    except (OSError, UnicodeError) as error:  # the latter of a host that is no name
        raise SandboxdError(
            f"cannot listen {purpose}on {host}:{port}: {getattr(error, 'strerror', None) or error}",
            remedy=remedy,
            exit_code=ExitCode.LISTEN,
        ) from error
    return held


def adopt_port(fd: int) -> socket.socket:
    """Take over a socket that holds a port.

    Parameters:
        fd: a TCP socket that is bound with SO_REUSEPORT and does not listen.

    Raises:
        SandboxdError: it is not such a socket.
    """
    try:
        held = socket.socket(fileno=fd)
        tcp = held.family in (socket.AF_INET, socket.AF_INET6) and held.type == socket.SOCK_STREAM
        fits = tcp and held.getsockname()[1] and held.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        listens = held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise SandboxdError(f"--grpc-fd {fd}: {error.strerror or error}", exit_code=ExitCode.LISTEN) from error
    if not fits or listens:
        raise SandboxdError(
            f"--grpc-fd {fd} is not a bound TCP socket with SO_REUSEPORT that does not listen",
            remedy="bind it with SO_REUSEPORT and do not listen on it; the server opens sockets of its own there",
            exit_code=ExitCode.LISTEN,
        )
    return held


def join_port(host: str, port: int) -> socket.socket:
    """Return a socket of one's own on a port that is held. It is bound, and does not listen yet.

    Parameters:
        host: an address or a name; the first address it resolves to is taken.
        port: not 0.

    Raises:
        SandboxdError: it cannot be bound.
    """
    try:
        family, kind, protocol, _, address = _first(host, port)
        joined = socket.socket(family, kind, protocol)
        try:
            joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            joined.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
            joined.bind(address)
        except OSError:
            joined.close()
            raise
    except (OSError, UnicodeError) as error:
        raise SandboxdError(
            f"cannot listen for gRPC on {host}:{port}: {getattr(error, 'strerror', None) or error}",
            remedy=REMEDY,
            exit_code=ExitCode.LISTEN,
        ) from error
    return joined


def _first(host: str, port: int) -> Any:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def clear_socket(path: str) -> None:
    """Remove a Unix socket that a process left which was killed.

    Raises:
        SandboxdError: something else is there, a process listens on it, or it cannot be removed.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SandboxdError(
                f"cannot listen on {path}: it exists and is not a socket",
                remedy="choose another path, or remove the file",
                exit_code=ExitCode.LISTEN,
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
        raise SandboxdError(
            f"cannot listen on {path}: another process listens there",
            remedy="choose another path, or stop that process",
            exit_code=ExitCode.LISTEN,
        )
    except FileNotFoundError:
        return
    except OSError as error:
        raise SandboxdError(
            f"cannot listen on {path}: {error.strerror or error}",
            remedy="choose a path in a folder that this user may write to",
            exit_code=ExitCode.LISTEN,
        ) from error

"""Addresses for grpcio, which binds its sockets itself, and Unix sockets. Nothing here imports grpcio.

Without a socket of our own there would be no telling a port that is taken: grpcio would join the other server's group
(SO_REUSEPORT), if that allows it. So the port is held by a socket that never listens, and grpcio's sockets join that
one. The kernel gives connections to sockets that listen only.
"""

import importlib.util
import os
import socket
import stat
from typing import Any, Final

from sandboxd.errors import ConfigError, ExitCode, SandboxdError

DEFAULT_PORT: Final = 50_001
"""Dapr's."""
REMEDY: Final = "choose another port with --grpc-port (0 serves no gRPC), or stop the process that uses this one"


def installed() -> bool:
    """Return whether the `grpc` extra is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("grpc", "google.protobuf"))


def wanted(port: int, unix_socket: str | None) -> bool:
    """Return whether gRPC is to be served.

    Parameters:
        port: 0 for no port.
        unix_socket: path of a socket, if there is one.

    Raises:
        ConfigError: it is asked for, and the extra is not installed. The default port asks for nothing.
    """
    if not port and not unix_socket:
        return False
    if installed():
        return True
    if port != DEFAULT_PORT or unix_socket:
        raise ConfigError("gRPC is not installed", remedy="install sandboxd[grpc], or set listen.grpcPort to 0")
    return False


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
            remedy="bind it with SO_REUSEPORT and do not listen on it; grpcio opens sockets of its own there",
            exit_code=ExitCode.LISTEN,
        )
    return held


def resolve(host: str, port: int) -> str:
    """Return the address of a host's port as grpcio wants it."""
    family, _, _, _, (found, *_) = _first(host, port)
    return f"[{found}]:{port}" if family == socket.AF_INET6 else f"{found}:{port}"


def _first(host: str, port: int) -> Any:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def target(held: socket.socket) -> str:
    """Return the address of a held port as grpcio wants it."""
    host, port = held.getsockname()[:2]
    return f"[{host}]:{port}" if held.family == socket.AF_INET6 else f"{host}:{port}"


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

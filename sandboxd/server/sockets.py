"""Listening sockets: those that a process inherits, and Unix sockets."""

import socket
from collections.abc import Mapping

from sandboxd.server.held_port import clear_socket


def inherited_fd(environ: Mapping[str, str], pid: int) -> int | None:
    """Return the first descriptor that systemd passed to this process; None if there is none.

    Parameters:
        environ: the environment.
        pid: this process's id.

    Source: sd_listen_fds(3). Descriptors begin at 3; LISTEN_PID names the process for which they are meant.
    """
    return 3 if environ.get("LISTEN_PID") == str(pid) else None


def listen_unix(path: str, *, backlog: int | None = 2048) -> socket.socket:
    """Return a Unix socket to serve on.

    Parameters:
        path: where it is.
        backlog: connections that may wait; None only binds it.

    Raises:
        SandboxdError: something else is at the path, or another process listens there.
        OSError: it cannot be bound.
    """
    clear_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        if backlog is not None:
            listener.listen(backlog)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """Return where a socket listens, for the log."""
    name = listener.getsockname()
    return name if isinstance(name, str) else f"{name[0]}:{name[1]}"


def tcp_port(listener: socket.socket) -> tuple[int, ...]:
    """Return the port of a listening socket; nothing for a Unix socket."""
    name = listener.getsockname()
    return () if isinstance(name, str) else (name[1],)


def remedy_of(error: Exception) -> str:
    """Return what to do about an address of the API that cannot be listened on."""
    if isinstance(error, PermissionError):
        return "ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit); or choose one from 1024 on"
    return "choose another address with --host and --port, or stop the process that uses this one"

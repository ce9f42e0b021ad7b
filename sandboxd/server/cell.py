"""A cell's entry point: `sandboxd.server.cell NUMBER STATUS_FD LISTENER_FD`. Only the supervisor starts it.

NUMBER is for people who read the process list. The settings come through the status socket, so that a restarted cell
has those that the server was started with, even if sandboxd.yaml has changed since.
"""

import socket
import sys

from sandboxd.config.cells import unpack
from sandboxd.errors import ExitCode
from sandboxd.server.member import welcomed
from sandboxd.wall import confinement


def main() -> int:
    """Serve as one cell. Return the exit status."""
    confinement.forbid_tracing()
    _, status_fd, listener_fd = map(int, sys.argv[1:])
    channel = socket.socket(fileno=status_fd)
    channel.setblocking(True)
    found = welcomed(channel)
    if found is None:
        return ExitCode.OK
    member, welcome = found
    config = unpack(welcome.config)
    # Imported late: a cell whose supervisor has already gone need not load everything.
    from sandboxd.server.serve import serve

    return serve(config, (), fd=listener_fd, member=member)


if __name__ == "__main__":
    sys.exit(main())

"""One cell: `python -m sandboxd.cells.main NUMBER STATUS_FD LISTENER_FD`. The supervisor is the only one who starts it.

The number stands there for whoever reads the list of processes; settings come through the status socket, so that a
cell that starts anew has those the server was started with, whatever has happened to sandboxd.yaml since.
"""

import socket
import sys

from sandboxd.cells.member import welcomed
from sandboxd.cells.share import unpack
from sandboxd.errors import ExitCode


def main() -> int:
    """Serve as one cell; the exit status."""
    _, status_fd, listener_fd = map(int, sys.argv[1:])
    channel = socket.socket(fileno=status_fd)
    channel.setblocking(True)
    found = welcomed(channel)
    if found is None:
        return ExitCode.OK
    member, welcome = found
    config = unpack(welcome.config)
    # Late: a supervisor that is gone already is noticed before everything is loaded.
    from sandboxd.serve import serve

    return serve(config, (), fd=listener_fd, member=member)


if __name__ == "__main__":
    sys.exit(main())

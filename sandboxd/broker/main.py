"""The egress broker's process: `sandboxd.broker.main FD`, started by `sandboxd.broker.client` with a socket as FD."""

import asyncio
import contextlib
import errno
import faulthandler
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final

from sandboxd.broker import messages as b
from sandboxd.broker.frames import FrameStream
from sandboxd.broker.running import RunningView
from sandboxd.broker.service import Front, Service
from sandboxd.wall import RESOLVER_FILES, Layer, Mode, WallError, confinement, enclose_broker

WATCH_S: Final = 2.0
"""Between two looks at the resolver's files."""


def resolver_files() -> list[tuple[int, int]]:
    """Return the device and inode of each file that a look-up reads; zeroes for one that is not there."""
    found = []
    for path in RESOLVER_FILES:
        try:
            stat = os.stat(path)
        except OSError:
            found.append((0, 0))
        else:
            found.append((stat.st_dev, stat.st_ino))
    return found


class Broker(Front):
    """Joins the service to the front, until the front closes the socket.

    Parameters:
        control: the stream socket to the front.
    """

    def __init__(self, control: socket.socket) -> None:
        self._service = Service(self)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._front = FrameStream(control, b.ToBroker, self._received, self._end, descriptors=True)

    def ask(self, question: int, serial: int, invocation: int) -> None:
        """See `Front`."""
        self._front.send(b.AskBinding(question, serial, invocation))

    def report_fault(self, serial: int, what: str) -> None:
        """See `Front`."""
        self._front.send(b.WorkerFault(serial, what))

    def _received(self, message: b.ToBroker) -> None:
        try:
            self._do(message)
        except (OSError, ValueError, WallError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)

    def _do(self, message: b.ToBroker) -> None:
        match message:
            case b.BuildWall(wall):
                page = self._front.descriptor()
                if page is None:
                    raise OSError(errno.EMFILE, "no free descriptor for the page of what runs")
                self._service.see(RunningView(page))
                os.close(page)
                found = resolver_files()
                missing = enclose_broker(Mode(wall))
                if Layer.LANDLOCK not in missing:
                    self._watch(found)
                self._front.send(b.Serving(tuple(missing.items())))
            case b.Learn():
                self._service.learn(message)
            case b.Forget(generation):
                self._service.forget(generation)
            case b.Attach(serial, generation, place):
                descriptor = self._front.descriptor()
                if descriptor is None:
                    self._front.send(b.WorkerUnserved(serial))
                else:
                    self._service.attach(serial, generation, place, socket.socket(fileno=descriptor))
            case b.BindingAnswer():
                self._service.told(message)
            case b.Ping():
                self._front.send(b.Pong())

    def _watch(self, found: Sequence[tuple[int, int]]) -> None:
        """End once a file of the resolver is another one: the wall lets this process read the former ones only."""
        if resolver_files() != found:
            self._fail(ValueError("the resolver's files were replaced, and only a new process may read the new ones"))
        else:
            asyncio.get_running_loop().call_later(WATCH_S, self._watch, found)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def _serve(control: socket.socket) -> None:
    await Broker(control).ended


def main() -> None:
    """Entry point. Only the front starts it."""
    control = socket.socket(fileno=int(sys.argv[1]))
    # The front ends this process by closing the socket. Ctrl-C and SIGTERM are for the front alone.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    confinement.forbid_new_privileges()
    confinement.forbid_tracing()
    confinement.drop_capabilities()
    os.umask(0o077)
    os.chdir("/")
    # Each worker may have some eighty connections under way.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    confinement.lower_limit(resource.RLIMIT_CORE, 0)
    confinement.lower_limit(resource.RLIMIT_FSIZE, 0)
    # What the system's resolver loads, it loads now: behind the wall no code can be mapped any more.
    with contextlib.suppress(OSError):
        socket.getaddrinfo(b"localhost", 80, type=socket.SOCK_STREAM)
    status = 0
    try:
        asyncio.run(_serve(control))
    except (OSError, ValueError, WallError) as error:
        print(f"the egress broker cannot serve: {error}", file=sys.stderr)
        status = 1
    sys.stderr.flush()
    # Threads that look names up cannot be stopped, and must not keep the process.
    os._exit(status)


if __name__ == "__main__":
    main()

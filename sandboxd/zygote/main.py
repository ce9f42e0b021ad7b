"""The zygote: the one process that forks, kills and reaps workers.

`python -m sandboxd.zygote.main FD`, started by `sandboxd.zygote.client` with one end of a socketpair as FD.
It has one thread and no event loop, deserialises every artifact once, and then forks on request; a worker
shares those pages. It ends when its socket does, and takes every worker along: no orphan is left when the
front dies, however it dies.
"""

import contextlib
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from sandboxd.errors import SandboxdError
from sandboxd.modules.artifact import open_verified
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.page import PAGE_BYTES
from sandboxd.worker import engine as worker_engine
from sandboxd.worker import guests as worker_guests
from sandboxd.worker import main as worker_main
from sandboxd.worker.cputime import CpuWall
from sandboxd.worker.runtime import Runtime
from sandboxd.zygote import hardening

RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class _Child:
    serial: int
    pid: int
    pidfd: int


class Zygote:
    """Answers the front's messages until its socket closes.

    Parameters:
        control: the stream socket to the front.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._decoder = codec.Decoder(codec.ToZygote)
        self._poll = select.poll()
        self._children: dict[int, _Child] = {}
        self._by_serial: dict[int, _Child] = {}
        self._walls: hardening.Walls | None = None
        self._runtime: Runtime | None = None
        self._wall = CpuWall(0)

    def __repr__(self) -> str:
        return f"<Zygote with {len(self._children)} workers>"

    def run(self) -> None:
        """Serve until the front closes the socket; then kill and reap every worker."""
        self._poll.register(self._control, select.POLLIN)
        try:
            while True:
                for fd, _ in self._poll.poll():
                    if fd == self._control.fileno():
                        data = self._control.recv(RECEIVE_BYTES)
                        if not data:
                            return
                        for message in self._decoder.feed(data):
                            self._handle(message)
                    else:
                        self._reap(fd)
        except (ConnectionError, codec.ProtocolError) as error:
            print(f"zygote: the front is gone: {error}", file=sys.stderr)
        finally:
            self._end_children()

    def _handle(self, message: m.Load | m.Spawn | m.Kill) -> None:
        match message:
            case m.Load():
                self._load(message)
            case m.Spawn(serial):
                self._spawn(serial)
            case m.Kill(serial):
                child = self._by_serial.get(serial)
                if child is not None:
                    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)

    def _load(self, load: m.Load) -> None:
        try:
            engine = worker_engine.build(load.engine)
        except Exception as error:
            self._send(m.LoadFailed(f"engine cannot be built: {error}"))
            raise SystemExit(1) from error
        guests: list[worker_guests.Guest | None] = []
        failed: list[tuple[str, str]] = []
        for spec in load.guests:
            try:
                # Loading an artifact executes it, so it comes from the verified file and nowhere else.
                with open_verified(spec.artifact) as path:
                    guests.append(worker_guests.load(engine, msgspec.structs.replace(spec, artifact=path)))
            except (worker_guests.GuestError, SandboxdError) as error:
                guests.append(None)
                failed.append((spec.binding, str(error)))
        # Loaded only along with guests that make requests.
        egress = sys.modules.get("sandboxd.worker.egress")
        if egress is not None:
            try:
                egress.prepare(load.outbound)
            except ValueError as error:
                self._send(m.LoadFailed(f"outbound HTTP cannot be set up: {error}"))
                raise SystemExit(1) from error
        try:
            # Made here, so that workers share them.
            self._runtime = Runtime(engine, guests, load.outbound, load.engine)
            self._wall = CpuWall(max((spec.limits.timeout_ms for spec in load.guests), default=0))
            self._walls = hardening.settle(load)
        except (OSError, ValueError) as error:
            self._send(m.LoadFailed(f"workers cannot be prepared: {error}"))
            raise SystemExit(1) from error
        gc.collect()
        gc.freeze()
        self._send(m.Loaded(failed=tuple(failed)))

    def _spawn(self, serial: int) -> None:
        assert self._runtime is not None, "Load comes first"
        with contextlib.ExitStack() as ours_only:
            try:
                ours, theirs = socket.socketpair()
                ours_only.callback(ours.close)
                ours_only.callback(theirs.close)
                page = os.memfd_create("sandboxd-status", os.MFD_CLOEXEC)
                ours_only.callback(os.close, page)
                os.ftruncate(page, PAGE_BYTES)
                pid = os.fork()
                if pid == 0:
                    self._become_worker(theirs, page, ours)
                pidfd = _open_pidfd(pid)
            except OSError as error:
                self._send(m.SpawnFailed(serial, f"{error}"))
                return
            child = _Child(serial, pid, pidfd)
            self._children[pidfd] = self._by_serial[serial] = child
            self._poll.register(pidfd, select.POLLIN)
            self._send(m.Spawned(serial, pid), [ours.fileno(), page, pidfd])

    def _become_worker(self, channel: socket.socket, page: int, other_end: socket.socket) -> NoReturn:
        status = 70
        try:
            self._control.close()
            other_end.close()
            for pidfd in self._children:
                os.close(pidfd)
            assert self._runtime is not None
            assert self._walls is not None
            hardening.confine_worker(self._walls, highest=max(channel.fileno(), page))
            status = worker_main.run(channel, page, self._runtime, self._wall)
        except BaseException:  # noqa: BLE001
            # The last boundary of this process: say what happened, then end it without running the zygote's exit path.
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        del self._by_serial[child.serial]
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(child.pid, 0)
        self._send(m.Exited(child.serial, child.pid, os.waitstatus_to_exitcode(status)))

    def _send(self, message: m.Message, fds: list[int] | None = None) -> None:
        data = codec.encode(message)
        sent = socket.send_fds(self._control, [data], fds) if fds else 0
        self._control.sendall(data[sent:])

    def _end_children(self) -> None:
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        for child in self._children.values():
            os.waitpid(child.pid, 0)


def _open_pidfd(pid: int) -> int:
    """A descriptor of a child just forked.

    Raises:
        OSError: none could be had; the child was ended and reaped, for nobody could watch it.
    """
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def main() -> None:
    """Entry point. The front is the only one who starts it."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    # The front decides when we end, by closing the socket; a terminal's Ctrl-C or a supervisor's SIGTERM goes to it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    hardening.forbid_new_privileges()
    Zygote(control).run()


if __name__ == "__main__":
    main()

"""The zygote: the one process that forks, kills and reaps workers.

`sandboxd.zygote.client` starts `sandboxd.zygote.main FD` with one end of a socket pair as FD. The process has one
thread and no event loop. It deserialises every artifact once and then forks on request, so that workers share those
pages. When its socket closes it kills every worker and ends, so that no orphan is left however the front dies.
"""

import contextlib
import faulthandler
import gc
import os
import select
import signal
import socket
import sys
from typing import NoReturn

import msgspec

from hostfuncs import native, texts
from sandboxd.errors import ConfigError, SandboxdError
from sandboxd.modules.artifact import open_verified
from sandboxd.wall import Mode, WallError, confinement
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.worker import engine as worker_engine
from sandboxd.worker import guests as worker_guests
from sandboxd.worker import load as worker_load
from sandboxd.worker import main as worker_main
from sandboxd.worker.cloning import Cloner
from sandboxd.worker.cputime import CpuTimeLimit
from sandboxd.worker.runtime import Runtime
from sandboxd.worker.template import Template, TemplateParts
from sandboxd.zygote import hardening
from sandboxd.zygote.children import Child, Ends, make_ends, open_pidfd
from sandboxd.zygote.templates import Templates

RECEIVE_BYTES = 1 << 16


class Zygote:
    """Answers the front's messages until its socket closes.

    Parameters:
        control: the stream socket to the front.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._decoder = codec.Decoder(codec.ToZygote)
        self._poll = select.poll()
        self._children: dict[int, Child] = {}
        """All processes that are not reaped yet, by pidfd."""
        self._by_serial: dict[int, Child] = {}
        self._pids: set[int] = set()
        self._templates = Templates(self._poll, self._adopt, self._failed, self._pids.__contains__)
        self._worker_confinement: hardening.WorkerConfinement | None = None
        self._runtime: Runtime | None = None
        self._cpu_limit = CpuTimeLimit(0)
        self._brokered = False

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
                    elif not self._templates.on_readable(fd):
                        self._reap(fd)
        except (ConnectionError, codec.ProtocolError) as error:
            print(f"zygote: the front is gone: {error}", file=sys.stderr)
        finally:
            self._end_children()

    def _handle(self, message: codec.ToZygote) -> None:
        match message:
            case m.Load():
                self._load(message)
            case m.Spawn(serial):
                self._spawn(serial, None)
            case m.SpawnTemplate():
                self._spawn(message.serial, message)
            case m.SpawnChild(serial, template):
                self._spawn_child(serial, template)
            case m.Kill(serial):
                child = self._by_serial.get(serial)
                if child is not None:
                    child.kill()
                else:
                    self._templates.cancel(serial)

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
                # Loading an artifact executes it, so it is loaded from the verified file and from no other.
                with open_verified(spec.artifact) as path:
                    guests.append(worker_load.load(engine, msgspec.structs.replace(spec, artifact=path), load.engine))
            except (worker_guests.GuestError, SandboxdError) as error:
                guests.append(None)
                failed.append((spec.binding, texts.bounded(str(error))))
        # This module is imported only if a guest can make outbound requests.
        egress = sys.modules.get("sandboxd.worker.egress")
        if egress is not None:
            try:
                egress.prepare(load.outbound)
            except ValueError as error:
                self._send(m.LoadFailed(f"outbound HTTP cannot be set up: {error}"))
                raise SystemExit(1) from error
        try:
            # Made before the fork, so that workers share them.
            self._runtime = Runtime(engine, guests, load.outbound)
            self._cpu_limit = CpuTimeLimit(max((spec.limits.timeout_ms for spec in load.guests), default=0))
            self._worker_confinement = hardening.confine_zygote(load)
        except ConfigError as error:
            self._send(m.LoadFailed(error.message, remedy=error.remedy, setting=True))
            raise SystemExit(1) from error
        except (OSError, ValueError, WallError) as error:
            self._send(m.LoadFailed(f"workers cannot be prepared: {error}"))
            raise SystemExit(1) from error
        gc.collect()
        gc.freeze()
        wall = self._worker_confinement.wall
        try:
            wall.enclose_zygote()
        except OSError as error:
            self._send(m.LoadFailed(f"workers cannot be prepared: {error}"))
            raise SystemExit(1) from error
        # The broker is a part of the wall. Without a wall, workers connect by themselves.
        self._brokered = egress is not None and load.confinement.wall != Mode.OFF
        missing = tuple(wall.missing.items())
        built = native.find() is not None
        self._send(m.Loaded(failed=tuple(failed), missing_layers=missing, brokered=self._brokered, native=built))

    def _spawn(self, serial: int, template: m.SpawnTemplate | None) -> None:
        """Fork a worker, or a template."""
        assert self._runtime is not None, "Load comes first"
        with contextlib.ExitStack() as stack:
            control: tuple[socket.socket, ...] = ()
            try:
                ends = make_ends(stack, brokered=self._brokered and template is None)
                if template is not None:
                    control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                pid = os.fork()
                if pid == 0:
                    self._run_child(ends, template, control)
                child = Child(serial, pid, open_pidfd(pid))
            except OSError as error:
                for end in control:
                    end.close()
                self._failed(serial, f"{error}")
                return
            if control:
                control[1].close()
                assert template is not None
                self._templates.add(child, control[0], calls_out=self._runtime.calls_out(template.guest))
            self._adopt(child, ends)

    def _spawn_child(self, serial: int, template: int) -> None:
        """Have a template fork a child."""
        assert self._runtime is not None
        stack = contextlib.ExitStack()
        try:
            ends = make_ends(stack, brokered=self._brokered and self._templates.calls_out(template))
        except OSError as error:
            stack.close()
            self._failed(serial, f"{error}")
            return
        self._templates.ask(serial, template, ends, stack)

    def _adopt(self, child: Child, ends: Ends) -> None:
        """Watch a new process, and send its descriptors to the front."""
        self._children[child.pidfd] = self._by_serial[child.serial] = child
        self._pids.add(child.pid)
        self._poll.register(child.pidfd, select.POLLIN)
        self._send(m.Spawned(child.serial, child.pid), ends.for_front(child.pidfd))

    def _failed(self, serial: int, why: str) -> None:
        self._send(m.SpawnFailed(serial, why))

    def _run_child(self, ends: Ends, template: m.SpawnTemplate | None, control: tuple[socket.socket, ...]) -> NoReturn:
        """In a new process: run a worker, or a template if there is one."""
        status = 70
        try:
            self._control.close()
            ends.front.close()
            if ends.broker is not None:
                ends.broker.close()
            for pidfd in self._children:
                os.close(pidfd)
            self._templates.close()
            assert self._runtime is not None
            assert self._worker_confinement is not None
            if template is None:
                hardening.confine_worker(self._worker_confinement, highest=max(ends.for_process()))
                status = worker_main.run(ends.own, ends.page, self._runtime, self._cpu_limit, ends.own_broker)
            else:
                control[0].close()
                os.close(ends.page)
                cloner = Cloner()
                hardening.confine_template(self._worker_confinement, max(*ends.for_process(), control[1].fileno()))
                parts = TemplateParts(
                    channel=ends.own,
                    control=control[1],
                    runtime=self._runtime,
                    cpu_limit=self._cpu_limit,
                    cloner=cloner,
                    confine_child=self._worker_confinement.wall.enclose_template_child,
                )
                status = Template(parts, template).run()
        except BaseException:  # noqa: BLE001
            # This is the last boundary of the process: report the error, then end without the zygote's cleanup.
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(status)

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        del self._by_serial[child.serial]
        self._pids.discard(child.pid)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        if self._templates.on_reaped(child):
            os.waitpid(child.pid, 0)
        self._send(m.Exited(child.serial, child.pid, status))

    def _send(self, message: m.Message, fds: list[int] | None = None) -> None:
        data = codec.encode(message)
        sent = socket.send_fds(self._control, [data], fds) if fds else 0
        self._control.sendall(data[sent:])

    def _end_children(self) -> None:
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            if child.serial not in self._templates:
                os.waitpid(child.pid, 0)
        self._templates.end_all()


def main() -> None:
    """Run the zygote. Only the front starts it."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(True)
    # The front ends this process by closing the socket. Ctrl-C and SIGTERM are for the front alone.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    confinement.forbid_new_privileges()
    # Before the secrets of components arrive.
    confinement.forbid_tracing()
    Zygote(control).run()


if __name__ == "__main__":
    main()

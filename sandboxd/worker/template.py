"""A template: a guest that ran up to the first thing that depends on its input, in a process that is forked from there.

The zygote forks a template, and tells it when to fork a child. A child gets one invocation from the front over a socket
of its own, as a worker does; its guest goes on with that input and runs to its end, and the process ends with it. All
of this happens inside the host function in which the guest was parked, deep in the stack of wasmtime. A fork copies
that stack; see RATIONALE.md for what makes this safe.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns, process_time_ns, thread_time_ns
from typing import Final

import msgspec

from hostfuncs.running.parking import Input, ParkPoint
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.page import StatusPage
from sandboxd.worker.channel import Channel
from sandboxd.worker.cloning import Cloner
from sandboxd.worker.cputime import CpuTimeLimit
from sandboxd.worker.runtime import Runtime

EXIT_FRONT_GONE: Final = 0
EXIT_PROTOCOL: Final = 71
EXIT_FAILED: Final = 70
CONTROL_BYTES: Final = 4096
"""The longest packet between zygote and template."""
_CHILD_FDS: Final = (2, 3)
"""Without and with the child's socket to the egress broker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateParts:
    """The parts that the zygote gives a template."""

    channel: socket.socket
    """Stream socket to the front."""
    control: socket.socket
    """Packet socket to the zygote."""
    runtime: Runtime
    cpu_limit: CpuTimeLimit
    cloner: Cloner
    confine_child: Callable[[], None]
    """Narrows what a child may do, before its guest goes on."""


class Template:
    """A template process, and in its children the child.

    Parameters:
        parts: see there.
        order: the guest, and what it is started with.
    """

    def __init__(self, parts: TemplateParts, order: m.SpawnTemplate) -> None:
        self._parts = parts
        self._order = order
        self._child: _Child | None = None
        self._began_ns = 0
        self._began_cpu_ns = 0

    def __repr__(self) -> str:
        return f"<Template serial={self._order.serial} {self._child!r}>"

    def run(self) -> int:
        """Run the guest. Returns, in the template, only if the guest ends without being parked; in each child, when its
        invocation is over.

        Returns:
            the exit status of the process.
        """
        parts, order = self._parts, self._order
        parts.runtime.start(None, None)
        parts.cpu_limit.renew()
        gc.disable()
        try:
            parts.channel.sendall(codec.encode(m.Ready(os.getpid())))
            self._began_ns, self._began_cpu_ns = monotonic_ns(), process_time_ns()
            call = m.Call(deadline_ns=self._began_ns + order.boot_ms * 1_000_000, args=order.args, env=order.env)
            result = parts.runtime.run(m.Invoke(id=0, guest=order.guest, call=call), wait=self._wait)
            if self._child is not None:
                return self._child.finish(result)
            parts.channel.sendall(codec.encode(m.NotParked(outcome=result.outcome, detail=result.detail)))
        except OSError:
            return EXIT_FRONT_GONE
        return 0

    def _wait(self, at: ParkPoint) -> Input:
        """Park the guest. Returns only in a child, with its input. See `hostfuncs.running.parking.Wait`."""
        # Whatever goes wrong must end the process here: the guest must not go on without input.
        try:
            self._park(at)
            return self._serve()
        except OSError as error:
            print(f"template {os.getpid()}: {error}", file=sys.stderr, flush=True)
            os._exit(EXIT_FAILED)

    def _park(self, at: ParkPoint) -> None:
        parts = self._parts
        boot_ns, cpu_ns = monotonic_ns() - self._began_ns, process_time_ns() - self._began_cpu_ns
        parts.runtime.pause()
        parts.cloner.wait_until_alone()
        # Children share these objects and touch none of them for a collection.
        gc.freeze()
        parked = m.Parked(at=at, boot_ns=boot_ns, cpu_ns=cpu_ns, private_bytes=_touched_bytes())
        parts.channel.sendall(codec.encode(parked))

    def _serve(self) -> Input:
        """Fork whenever the zygote asks, until the front or the zygote is gone."""
        parts = self._parts
        control = parts.control
        decoder = codec.Decoder(codec.ToTemplate)
        waiting = select.poll()
        waiting.register(parts.channel, select.POLLIN)
        waiting.register(control, select.POLLIN)
        while True:
            ready = {fd for fd, _ in waiting.poll()}
            if parts.channel.fileno() in ready:
                os._exit(EXIT_FRONT_GONE)  # the front says nothing to a template: it has closed the socket
            data, fds, _, _ = socket.recv_fds(control, CONTROL_BYTES, max(_CHILD_FDS))
            if not data:
                os._exit(EXIT_FRONT_GONE)
            try:
                (order,) = decoder.feed(data)
            except (codec.ProtocolError, ValueError):
                os._exit(EXIT_PROTOCOL)
            if len(fds) not in _CHILD_FDS:
                raise OSError("a child's descriptors did not arrive")
            pid = parts.cloner.fork()
            if pid == 0:
                control.close()
                parts.channel.close()
                parts.cloner.close()
                self._child = _Child(parts, fds)
                return self._child.receive()
            for fd in fds:
                os.close(fd)
            control.send(codec.encode(m.Forked(order.serial, pid)))


class _Child:
    """A child of a template: its socket to the front, and its one invocation.

    Parameters:
        parts: the template's.
        fds: its end of the socket to the front, its status page, and perhaps its socket to the egress broker.
    """

    def __init__(self, parts: TemplateParts, fds: list[int]) -> None:
        self._parts = parts
        self._stream = socket.socket(fileno=fds[0])
        self._page = StatusPage(fds[1])
        os.close(fds[1])
        self._broker = socket.socket(fileno=fds[2]) if len(fds) > 2 else None
        self._id = 0
        self._resumed_ns = self._resumed_cpu_ns = 0

    def __repr__(self) -> str:
        return f"<_Child pid={os.getpid()} invocation={self._id}>"

    def receive(self) -> Input:
        """Wait for the invocation and begin it."""
        parts = self._parts
        try:
            parts.confine_child()
            self._stream.sendall(codec.encode(m.Ready(os.getpid(), _touched_bytes(), process_time_ns())))
            # Started now, and not when the invocation has come: the thread takes longer than the rest.
            parts.runtime.start(self._stream, self._broker)
            front: Channel = parts.runtime.channel
            arrived: list[codec.ToWorker] = []
            while not arrived:
                received = front.receive()
                if received is None:
                    os._exit(EXIT_FRONT_GONE)
                arrived = received
            invoke = arrived[0]
            if type(invoke) is not m.Invoke or len(arrived) > 1:
                os._exit(EXIT_PROTOCOL)
            self._id = invoke.id
            if not self._page.begin(1):
                self._stream.sendall(codec.encode(m.Skipped(invoke.id)))
                os._exit(EXIT_FRONT_GONE)
            self._resumed_ns, self._resumed_cpu_ns = monotonic_ns(), thread_time_ns()
            parts.cpu_limit.renew()
            parts.runtime.note_invocation(invoke.id)
            call = invoke.call
            return Input(stdin=call.stdin, env=call.env, deadline_ns=call.deadline_ns, ends_process=True)
        except codec.ProtocolError as error:
            print(f"child {os.getpid()} of a template: {error}", file=sys.stderr, flush=True)
            os._exit(EXIT_PROTOCOL)

    def finish(self, result: m.Result) -> int:
        """Answer. What the guest did before it was parked is no part of the invocation's time.

        Parameters:
            result: of the run that began in the template.

        Returns:
            the exit status of the process.
        """
        took, used = monotonic_ns() - self._resumed_ns, thread_time_ns() - self._resumed_cpu_ns
        answer = msgspec.structs.replace(result, id=self._id, instantiate_ns=0, guest_ns=took, cpu_ns=used)
        self._stream.sendall(codec.encode(answer))
        return EXIT_FRONT_GONE


def _touched_bytes() -> int:
    """Return about how much memory this process has of its own: a page for each of its faults since it was forked."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt * resource.getpagesize()

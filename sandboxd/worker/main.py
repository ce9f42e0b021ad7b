"""A worker: one blocking loop on one socket, one invocation at a time."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic_ns

import wasmtime

from sandboxd.limits import EngineSettings
from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.page import StatusPage
from sandboxd.worker.cputime import CpuWall
from sandboxd.worker.guests import Guest
from sandboxd.worker.link import Link
from sandboxd.worker.runtime import Runtime
from sandboxd.worker.tidying import Tidying

EXIT_FRONT_GONE = 0
EXIT_PROTOCOL = 71


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the zygote made once and every worker shares: the engine and the linked guests (None where one failed)."""

    engine: wasmtime.Engine
    guests: Sequence[Guest | None]
    outbound: m.OutboundSettings
    settings: EngineSettings


def run(channel: socket.socket, page_fd: int, prepared: Prepared) -> int:
    """Serve invocations until the front closes the socket.

    Parameters:
        channel: stream socket to the front.
        page_fd: memfd of the status page; closed here once mapped.
        prepared: from the zygote.

    Returns:
        the process's exit status.
    """
    page = StatusPage(page_fd)
    os.close(page_fd)
    wall = CpuWall(max((guest.spec.limits.timeout_ms for guest in prepared.guests if guest is not None), default=0))
    link = Link(channel)
    runtime = Runtime(prepared.engine, prepared.guests, prepared.outbound, prepared.settings, link)
    number = 0
    tidying = Tidying()
    try:
        channel.sendall(codec.encode(m.Ready(os.getpid())))
        while True:
            arrived = link.receive()
            if arrived is None:
                return EXIT_FRONT_GONE
            for invoke in arrived:
                if type(invoke) is not m.Invoke:
                    continue  # the rest of a request's body that its guest did not read
                number += 1
                if monotonic_ns() >= wall.next_ns:
                    wall.renew()
                if page.begin(number):
                    channel.sendall(codec.encode(runtime.run(invoke)))
                else:
                    channel.sendall(codec.encode(m.Skipped(invoke.id)))
            tidying.after(number)
    except (ConnectionError, BrokenPipeError):
        return EXIT_FRONT_GONE
    except codec.ProtocolError as error:
        print(f"worker {os.getpid()}: {error}", file=sys.stderr)
        return EXIT_PROTOCOL

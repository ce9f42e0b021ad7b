"""A worker: one blocking loop on one socket, one invocation at a time."""

import os
import socket
import sys
from time import monotonic_ns

from sandboxd.wire import codec
from sandboxd.wire import messages as m
from sandboxd.wire.page import StatusPage
from sandboxd.worker.cputime import CpuTimeLimit
from sandboxd.worker.garbage import GarbageCollection
from sandboxd.worker.runtime import Runtime

EXIT_FRONT_GONE = 0
EXIT_PROTOCOL = 71


def run(
    channel: socket.socket,
    page_fd: int,
    runtime: Runtime,
    cpu_limit: CpuTimeLimit,
    broker: socket.socket | None = None,
) -> int:
    """Serve invocations until the front closes the socket.

    Parameters:
        channel: stream socket to the front.
        page_fd: memfd of the status page; closed here once mapped.
        runtime: from the zygote, not yet started.
        cpu_limit: likewise.
        broker: socket to the egress broker; None if guests connect without one.

    Returns:
        The exit status of the process.
    """
    page = StatusPage(page_fd)
    os.close(page_fd)
    front = runtime.start(channel, broker).channel
    number = poll_ns = 0
    collection = GarbageCollection()
    try:
        channel.sendall(codec.encode(m.Ready(os.getpid())))
        while True:
            arrived = front.receive(poll_ns)
            if arrived is None:
                return EXIT_FRONT_GONE
            for invoke in arrived:
                if type(invoke) is not m.Invoke:
                    continue  # the rest of a request's body, which its guest did not read
                number += 1
                poll_ns = invoke.poll_ns
                if monotonic_ns() >= cpu_limit.next_ns:
                    cpu_limit.renew()
                if page.begin(number):
                    channel.sendall(codec.encode(runtime.run(invoke)))
                else:
                    channel.sendall(codec.encode(m.Skipped(invoke.id)))
            collection.after(number)
    except (ConnectionError, BrokenPipeError):
        return EXIT_FRONT_GONE
    except codec.ProtocolError as error:
        print(f"worker {os.getpid()}: {error}", file=sys.stderr)
        return EXIT_PROTOCOL

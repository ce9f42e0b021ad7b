"""The decoding process: `python -P interpreter.py sandboxd.front.decoding.process FD PARENT WALL`.

It has one thread and one socket. It answers one body after the other, and ends with its socket or its parent.
"""

import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from typing import Final

import msgspec

from sandboxd import gojson
from sandboxd.front.answering.payload import converted
from sandboxd.front.decoding import ERRORS, KINDS, REPLY, REQUEST
from sandboxd.wall import Mode, enclose_compiler
from sandboxd.wall.confinement import (
    die_with_parent,
    drop_capabilities,
    forbid_new_privileges,
    forbid_tracing,
    lower_limit,
)
from sandboxd.wire.streams import StdinKind

NICE: Final = 10
"""See setpriority(2). Where both want the same processor, the front gets nine tenths of its time."""
_ADDRESS_SPACE: Final = 4 << 30
"""Bytes. The most hostile body of 128 MiB, the highest limit, needs about half of it."""


def main() -> None:
    """Confine the process, and serve until the front closes the socket."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.setblocking(True)
    die_with_parent(int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A body may take a second of a processor. The front and the workers come first.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.nice(NICE)
    forbid_new_privileges()
    forbid_tracing()
    lower_limit(resource.RLIMIT_CORE, 0)
    lower_limit(resource.RLIMIT_FSIZE, 0)
    lower_limit(resource.RLIMIT_AS, _ADDRESS_SPACE)
    # Each path of the decoder runs once before the process is confined, and loads its lazy imports: root may need its
    # rights to reach the packages.
    answer(b'{"data":[1.5]}', StdinKind.JSON, cut=False)
    answer(b'{"Data":"\xff"', StdinKind.JSON, cut=True)
    answer(b'{"data":"/w=="}', StdinKind.BASE64, cut=False)
    drop_capabilities()
    enclose_compiler(Mode(sys.argv[3]))
    gc.disable()  # a decoded body has no cycles
    with channel.makefile("rb") as file:
        while len(head := file.read(REQUEST.size)) == REQUEST.size:
            cut, kind, size = REQUEST.unpack(head)
            channel.sendall(answer(file.read(size), KINDS[kind], cut=cut))


def answer(body: bytes, kind: StdinKind | None, *, cut: bool) -> bytes:
    """Return the frame that answers one body. See `BodyDecoder.decode` for the parameters."""
    try:
        request = gojson.decode(body, cut=cut)
        if kind is not None:
            request = converted(request, kind)
    except ERRORS as error:
        number, payload = ERRORS.index(type(error)) + 1, str(error).encode()
    else:
        number, payload = 0, msgspec.msgpack.encode((request.operation, request.metadata, request.data))
    return REPLY.pack(number, len(payload)) + payload


if __name__ == "__main__":
    main()

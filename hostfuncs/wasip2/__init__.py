"""WASI 0.2 for components, implemented in Python. A guest reaches nothing of the machine except these functions.

    host = Host(state, entries=4096, memory_bytes=2**26)                # one per component
    linked = link(engine, component, host, INTERFACES)     # once, before any fork

    state.begin(deadline_ns)                               # for each invocation
    host.begin(Call(args=..., env=...), stdio=..., sources=..., exchanges=...)
    host.enter(context)                                    # of a new store
    ... instantiate, call ...
    host.finish()

There is one file for each WIT interface or group of interfaces. Sockets are denied. HTTP goes through
`hostfuncs.outbound` and its policy.

Guest memory: no function here reads or writes it directly. wasmtime lifts the arguments from it and lowers the result
into it, as the canonical ABI says. The bytes of a string or list argument are copied out before the function runs. The
bytes of a string or list result go into memory that the guest's `cabi_realloc` allocates.

Failures: an error is part of the result, and the guest goes on; docstrings list errors after "Errors:". A trap ends the
guest; docstrings list traps after "Traps:". Every function also traps if a handle names no live resource of its type,
if a resource is given away or dropped while resources made from it are alive, or if the guest would hold more resources
or more of the host's memory than its limits allow. Every function that waits ends the guest at its deadline.
"""

from hostfuncs.wasip2 import (
    cli,
    clocks,
    filesystem,
    http_incoming,
    http_types,
    io_error,
    io_poll,
    io_streams,
    outgoing_handler,
    randomness,
    sockets,
)
from hostfuncs.wasip2.host import Call, Host, InputPump
from hostfuncs.wasip2.http_incoming import IncomingRequest, Request, ResponseOutparam
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.link import Linked, LinkError, link
from hostfuncs.wasip2.responder import Responder
from hostfuncs.wasip2.stdio import BytesSource, Collected, KeptTail, Sink, Source, Stdio

INTERFACES: dict[str, Interface] = {
    interface.name: interface
    for interface in (
        io_error.INTERFACE,
        io_poll.INTERFACE,
        io_streams.INTERFACE,
        *cli.INTERFACES,
        *clocks.INTERFACES,
        *randomness.INTERFACES,
        *filesystem.INTERFACES,
        *sockets.INTERFACES,
        http_types.TYPES,
        outgoing_handler.INTERFACE,
    )
}
"""Every interface that a component may import, by name."""

__all__ = [
    "INTERFACES",
    "BytesSource",
    "Call",
    "Collected",
    "Host",
    "IncomingRequest",
    "InputPump",
    "Interface",
    "KeptTail",
    "LinkError",
    "Linked",
    "Request",
    "Responder",
    "ResponseOutparam",
    "Sink",
    "Source",
    "Stdio",
    "http_incoming",
    "link",
]

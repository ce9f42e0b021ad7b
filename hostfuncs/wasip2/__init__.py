"""WASI 0.2 for components, all of it in Python: nothing of the machine can be reached but what is here.

    host = Host(state, entries=4096)                       # one per component
    linked = link(engine, component, host, INTERFACES)     # once, before any fork

    state.begin(deadline_ns)                               # for each invocation
    host.begin(Call(args=..., env=...), stdio=..., sources=..., exchanges=...)
    host.enter(context)                                    # of a new store
    ... instantiate, call ...
    host.finish()

One file per WIT interface or group of them. No directory is open, sockets are denied, HTTP goes through
`hostfuncs.outbound` and its policy.
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
from hostfuncs.wasip2.host import Call, Host
from hostfuncs.wasip2.http_incoming import IncomingRequest, Request, Responder, ResponseOutparam
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.link import Linked, LinkError, link
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
"""Everything a component may import, by name."""

__all__ = [
    "INTERFACES",
    "BytesSource",
    "Call",
    "Collected",
    "Host",
    "IncomingRequest",
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

"""wasi:sockets, all denied: guests reach the network only through wasi:http, where the egress policy applies."""

from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.interface import Interface
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.io_poll import Pollable
from hostfuncs.wasip2.io_streams import InputStream, OutputStream
from hostfuncs.wasip2.table import Entry, resource
from hostfuncs.wasip2.types import NONE, STRING, Borrow, Enum, Option, Own, Result, Tag, err


@resource("network")
class Network(Entry):
    """A capability that permits nothing."""


@resource("tcp-socket")
class TcpSocket(Entry):
    """Never made, because sockets are denied."""


@resource("udp-socket")
class UdpSocket(Entry):
    """Never made, because sockets are denied."""


@resource("incoming-datagram-stream")
class IncomingDatagramStream(Entry):
    """Never made, because sockets are denied."""


@resource("outgoing-datagram-stream")
class OutgoingDatagramStream(Entry):
    """Never made, because sockets are denied."""


@resource("resolve-address-stream")
class ResolveAddressStream(Entry):
    """Never made, because look-ups are denied."""


ERROR_CODE = Enum(
    (
        *("unknown", "access-denied", "not-supported", "invalid-argument", "out-of-memory", "timeout"),
        *("concurrency-conflict", "not-in-progress", "would-block", "invalid-state", "new-socket-limit"),
        *("address-not-bindable", "address-in-use", "remote-unreachable", "connection-refused", "connection-reset"),
        *("connection-aborted", "datagram-too-large", "name-unresolvable", "temporary-resolver-failure"),
        "permanent-resolver-failure",
    )
)
FAMILY = Enum(("ipv4", "ipv6"))
_DENIED = err("access-denied")
_NO_RESOLVER = err("permanent-resolver-failure")
_NO_SOCKETS = "there are no sockets"

NETWORK = Interface("wasi:sockets/network", {"network": Network, "error": IoError})
INSTANCE_NETWORK = Interface("wasi:sockets/instance-network", {"network": Network})
LOOKUP = Interface(
    "wasi:sockets/ip-name-lookup",
    {"network": Network, "pollable": Pollable, "resolve-address-stream": ResolveAddressStream},
    unreachable="there are no look-ups",
)
TCP_CREATE = Interface("wasi:sockets/tcp-create-socket", {"network": Network, "tcp-socket": TcpSocket})
UDP_CREATE = Interface("wasi:sockets/udp-create-socket", {"network": Network, "udp-socket": UdpSocket})
TCP = Interface(
    "wasi:sockets/tcp",
    {
        "tcp-socket": TcpSocket,
        "network": Network,
        "pollable": Pollable,
        "input-stream": InputStream,
        "output-stream": OutputStream,
    },
    unreachable=_NO_SOCKETS,
)
UDP = Interface(
    "wasi:sockets/udp",
    {
        "udp-socket": UdpSocket,
        "incoming-datagram-stream": IncomingDatagramStream,
        "outgoing-datagram-stream": OutgoingDatagramStream,
        "network": Network,
        "pollable": Pollable,
    },
    unreachable=_NO_SOCKETS,
)


@INSTANCE_NETWORK.function("instance-network", result=Own(Network))
def instance_network(_host: Host) -> Network:
    """Return a handle, because this function cannot fail. Every function that takes the handle fails."""
    return Network()


@NETWORK.function("network-error-code", Borrow(IoError), result=Option(ERROR_CODE))
def network_error_code(_host: Host, _error: IoError) -> Tag:
    """Return none, because no stream here belongs to a socket."""
    return NONE


@TCP_CREATE.function("create-tcp-socket", FAMILY, result=Result(Own(TcpSocket), ERROR_CODE))
def create_tcp_socket(_host: Host, _family: str) -> Tag:
    """Refuse to make a socket. Errors: always `access-denied`."""
    return _DENIED


@UDP_CREATE.function("create-udp-socket", FAMILY, result=Result(Own(UdpSocket), ERROR_CODE))
def create_udp_socket(_host: Host, _family: str) -> Tag:
    """Refuse to make a socket. Errors: always `access-denied`."""
    return _DENIED


@LOOKUP.function("resolve-addresses", Borrow(Network), STRING, result=Result(Own(ResolveAddressStream), ERROR_CODE))
def resolve_addresses(_host: Host, _network: Network, _name: str) -> Tag:
    """Refuse to look up a name.

    Errors: always `permanent-resolver-failure`, as from wasmtime's host without look-ups.
    """
    return _NO_RESOLVER


INTERFACES = (NETWORK, INSTANCE_NETWORK, LOOKUP, TCP_CREATE, UDP_CREATE, TCP, UDP)

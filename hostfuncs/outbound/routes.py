"""Asks the kernel for the route to an address. No packet is sent.

Source: rtnetlink(7), RTM_GETROUTE; the kernel's include/uapi/linux/rtnetlink.h.
"""

import errno
import ipaddress
import os
import socket
import struct

_GETROUTE = 26
_NEWROUTE = 24
_REQUEST = 1
_DESTINATION = 1
"""RTA_DST."""
_LOCAL = 2
_BROADCAST = 3
_ANYCAST = 4
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=8BI")
_TYPE_AT = _HEADER.size + 7
_ANSWER_BYTES = 8192


def ends_here(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether the kernel delivers packets to an address to this machine.

    It does so for every address of its interfaces, including further ones in the same network, and for ranges that are
    routed to the machine itself. Each call asks the kernel, because addresses and routes come and go.
    """
    try:
        kind = _route_type(address)
    except OSError:
        return _is_its_own_source(address)
    return kind in (_LOCAL, _BROADCAST, _ANYCAST)


def _route_type(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int | None:
    """Return the type of the route to an address; None if there is none.

    Raises:
        OSError: this process may not ask the kernel.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    body = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(packed), _DESTINATION) + packed
    # Protocol 0 is NETLINK_ROUTE.
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asking:
        asking.send(_HEADER.pack(_HEADER.size + len(body), _GETROUTE, _REQUEST, 1, 0) + body)
        # The kernel answers before `send` returns, so there is never anything to wait for.
        answer = asking.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
    if _HEADER.unpack_from(answer)[1] == _NEWROUTE:
        return answer[_TYPE_AT]
    number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
    if number in (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP):
        raise OSError(number, os.strerror(number))
    return None


def _is_its_own_source(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether a packet to an address would have that address as its source, as for most own addresses."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == address
    except OSError:
        return False  # there is no route to it, or the machine lacks the address family

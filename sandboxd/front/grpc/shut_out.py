"""A filter of a listening socket, by which the kernel drops the first packet of connections from certain hosts.

Source: socket(7), SO_ATTACH_FILTER; include/uapi/linux/filter.h and bpf_common.h. The kernel asks a listening socket's
filter about each packet that would begin a connection, with its network header at SKF_NET_OFF.
"""

import contextlib
import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterable
from typing import Final

MOST_HOSTS: Final = 32
"""Of each family. Jumps of a filter reach 255 instructions."""

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_NETWORK: Final = 0xFFF00000
"""SKF_NET_OFF."""
_LOAD_WORD: Final = 0x20
_LOAD_BYTE: Final = 0x30
_SHIFT_RIGHT: Final = 0x74
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_WHOLE: Final = 0xFFFFFFFF
_SOURCE_4: Final = 12
_SOURCE_6: Final = 8
"""Where the source's address lies in the header."""


def shut_out(listener: socket.socket, hosts: Iterable[str]) -> None:
    """Have no connections of these hosts begin on a socket, and of no others. Those that stand are not touched.

    Parameters:
        listener: a listening TCP socket.
        hosts: addresses; none lets everybody in. Beyond MOST_HOSTS of a family the rest is let in.

    Raises:
        OSError: the kernel refused.
    """
    program = filter_of(hosts)
    if not program:
        with contextlib.suppress(FileNotFoundError):  # it has no filter
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return
    code = ctypes.create_string_buffer(program)
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    )


def filter_of(hosts: Iterable[str]) -> bytes:
    """Return the filter that drops packets of these hosts; empty for none."""
    found = [ipaddress.ip_address(host.partition("%")[0]) for host in hosts]
    four = [one for one in found if one.version == 4][:MOST_HOSTS]
    six = [one for one in found if one.version == 6][:MOST_HOSTS]
    if not four and not six:
        return b""
    drop, take = _op(_RETURN, 0), _op(_RETURN, _WHOLE)
    of_four = [_op(_LOAD_WORD, _NETWORK + _SOURCE_4)]
    for one in four:
        of_four += [_op(_JUMP_IF_EQUAL, int(one), 0, 1), drop]
    of_six: list[bytes] = []
    for other in six:
        for at, word in enumerate(struct.unpack(">4I", other.packed)):
            # On to the next host, over what is left of this one.
            of_six += [_op(_LOAD_WORD, _NETWORK + _SOURCE_6 + 4 * at), _op(_JUMP_IF_EQUAL, word, 0, 2 * (3 - at) + 1)]
        of_six.append(drop)
    head = [
        _op(_LOAD_BYTE, _NETWORK),
        _op(_SHIFT_RIGHT, 4),
        _op(_JUMP_IF_EQUAL, 4, 0, len(of_four) + 1),
    ]
    return b"".join([*head, *of_four, take, *of_six, take])


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    """Return a `struct sock_filter`."""
    return struct.pack("=HBBI", code, yes, no, k)

"""Restricts this process by Landlock to listed files, with no TCP ports, signals or abstract sockets beyond its domain.

Source: landlock(7); Linux, include/uapi/linux/landlock.h.
"""

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
"""The numbers are the same on every machine."""

_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
_CHANGE: Final = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 14
"""WRITE_FILE, REMOVE_DIR, REMOVE_FILE, MAKE_DIR, MAKE_REG, MAKE_SYM, REFER, TRUNCATE: no devices, pipes or sockets."""

_FILE_RIGHTS_BY_ABI: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16, 6: 16}
"""The number of file rights of each ABI. Newer ABIs add bits at the top (REFER, TRUNCATE, IOCTL_DEV)."""
_NEWEST: Final = 6
_NET_BIND: Final = 1 << 0
_NET_CONNECT: Final = 1 << 1
_NET_SINCE: Final = 4
_SCOPES: Final = 0b11
"""LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, LANDLOCK_SCOPE_SIGNAL."""
_SCOPES_SINCE: Final = 6

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """Return the kernel's version of Landlock, from 1; 0 if it has none or it is switched off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)))


def ruleset(readable: Iterable[str] = (), *, writable: Iterable[str] = (), connect: bool = False) -> int:
    """Return a descriptor of a new ruleset that allows only what is listed, as far as the kernel's ABI can.

    Parameters:
        readable: files and folders that may be read. Those that do not exist are left out.
        writable: folders in and beneath which files may be read, written, created, moved and removed. Those that do
            not exist are left out.
        connect: whether TCP connections may be opened.

    Raises:
        OSError: the kernel refused. ENOSYS or EOPNOTSUPP means that it has no Landlock.
    """
    version = min(abi(), _NEWEST)
    files = (1 << _FILE_RIGHTS_BY_ABI.get(version, 13)) - 1
    net = 0
    if version >= _NET_SINCE:
        net = _NET_BIND if connect else _NET_BIND | _NET_CONNECT
    scopes = _SCOPES if version >= _SCOPES_SINCE else 0
    # Older kernels have a shorter structure. They refuse a longer one only if the rest of it is not zero.
    attributes = struct.pack("=QQQ", files, net, scopes)
    descriptor = _check(_libc.syscall(_CREATE_RULESET, attributes, len(attributes), 0), "create_ruleset")
    try:
        for path in readable:
            _allow(descriptor, path, READ_FILE | READ_DIR)
        for path in writable:
            _allow(descriptor, path, (READ_FILE | READ_DIR | _CHANGE) & files)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def restrict(descriptor: int) -> None:
    """Apply a ruleset to the calling thread, and to all that it forks or starts, for good.

    The process must have given up gaining privileges (`no_new_privs`), or be privileged.

    Parameters:
        descriptor: from `ruleset`. Not closed.

    Raises:
        OSError: the kernel refused.
    """
    _check(_libc.syscall(_RESTRICT_SELF, descriptor, 0), "restrict_self")


def _allow(descriptor: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= READ_FILE
        rule = struct.pack("=Qi", rights, parent)
        _check(_libc.syscall(_ADD_RULE, descriptor, _RULE_PATH_BENEATH, rule, 0), "add_rule")
    finally:
        os.close(parent)


def _check(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock_{call}: {os.strerror(number)}")
    return result

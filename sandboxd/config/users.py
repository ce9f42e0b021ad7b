"""Looks up the ids of the user and the group that workers run as."""

import grp
import os
import pwd

from sandboxd.errors import ConfigError

_MAX_ID = (1 << 32) - 2
"""2^32 - 1 tells the system calls to leave an id as it is."""


def worker_ids(user: str | None, group: str | None, *, changing: bool = True) -> tuple[int | None, int | None]:
    """Return the user id and the group id of workers; None keeps the server's own.

    Parameters:
        user: a name or a number. Its own group is taken unless `group` names another.
        group: a name or a number.
        changing: whether this process will change to them. False only looks them up.

    Raises:
        ConfigError: there is no such user or group, or this process may not change to it.
    """
    uid, gid = _user(user), _group(group)
    if uid is not None and gid is None:
        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError:
            raise ConfigError(
                f"pool.user: user {uid} has no entry that names its group", remedy="set pool.group too"
            ) from None
    if changing and (uid, gid) != (None, None) and os.geteuid() != 0:
        key = "pool.group" if uid is None else "pool.user"
        raise ConfigError(
            f"{key} is set, but sandboxd runs as user {os.geteuid()}, who may not change to another user",
            remedy=f"start sandboxd as root, or remove {key} and start it as that user",
        )
    return uid, gid


def _user(text: str | None) -> int | None:
    if text is None:
        return None
    if _is_number(text):
        return _in_range("pool.user", int(text))
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise ConfigError(f"pool.user: there is no user {text!r}", remedy="create it, or give its number") from None


def _group(text: str | None) -> int | None:
    if text is None:
        return None
    if _is_number(text):
        return _in_range("pool.group", int(text))
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(f"pool.group: there is no group {text!r}", remedy="create it, or give its number") from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _in_range(key: str, number: int) -> int:
    if number > _MAX_ID:
        raise ConfigError(f"{key}: {number} is not an id; the largest is {_MAX_ID}")
    return number

"""Decides which folders and files are trusted. Loading an artifact executes it, so no other user may be able to write.

The rule: the owner is this user or root, and neither the group nor others may write. It is checked on the open
descriptor, never on a path. Everything inside is then opened relative to that descriptor, without following symbolic
links. The folders *above* need no check: only this user and root can create a folder that this user owns.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from sandboxd.modules.errors import StoreError

OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def check(status: os.stat_result, what: str, *, folder: bool) -> None:
    """Refuse a file or folder that another user could have written.

    Parameters:
        status: the result of fstat.
        what: its name in errors.
        folder: whether it must be a folder; else it must be a regular file.
    Raises:
        StoreError: the type, owner or mode is wrong. The remedy is the command that repairs it.
    """
    right_type = stat.S_ISDIR(status.st_mode) if folder else stat.S_ISREG(status.st_mode)
    if not right_type:
        raise StoreError(f"{what} is not a {'folder' if folder else 'regular file'}", remedy="remove it")
    user = os.geteuid()
    if status.st_uid not in (user, 0):
        raise StoreError(
            f"{what} belongs to user {status.st_uid}, not to user {user} or root, and is not trusted",
            remedy=f"set another cache folder, or give it to the server's user: chown -R {user} {what}",
        )
    if status.st_mode & OTHERS_MAY_WRITE:
        raise StoreError(
            f"{what} has mode {stat.S_IMODE(status.st_mode):04o}: other users may have written to it",
            remedy=f"remove it, or if nobody did: chmod -R go-w {what}",
        )


def _checked(fd: int, what: str, *, folder: bool) -> int:
    """Return a descriptor that `check` accepts. Close one that it refuses."""
    try:
        check(os.fstat(fd), what, folder=folder)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_folder(name: str, what: str, *, dir_fd: int | None = None, create: bool = False) -> int:
    """Open a folder of the store and check it. The caller closes the descriptor.

    Parameters:
        name: path, or a name relative to `dir_fd`; its last part must not be a symbolic link.
        what: its name in errors.
        dir_fd: the descriptor of the folder that holds it; None means that `name` is a path.
        create: create it, with mode 0700, if it is missing.
    Raises:
        StoreError: it cannot be opened or created, or is not trusted.
        FileNotFoundError: it is missing and `create` is false.
    """
    if create:
        try:
            os.mkdir(name, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            pass
        except OSError as error:
            raise store_error(error, "create", what) from error
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise StoreError(f"{what} is a symbolic link or not a folder", remedy="remove it") from error
        raise store_error(error, "open", what) from error
    return _checked(fd, what, folder=True)


def open_file(name: str, what: str, *, dir_fd: int) -> int:
    """Open a file of the store for reading and check it. The caller closes the descriptor.

    Parameters:
        name: its name in the folder.
        what: its name in errors.
        dir_fd: the folder's descriptor.
    Raises:
        StoreError: it cannot be opened, or is not trusted.
        FileNotFoundError: it is missing.
    """
    try:
        # O_NONBLOCK: opening a planted FIFO must not wait for a writer.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{what} is a symbolic link", remedy="remove it") from error
        raise store_error(error, "open", what) from error
    return _checked(fd, what, folder=False)


@contextmanager
def store_errors(action: str, what: str) -> Iterator[None]:
    """Turn an OSError in the block into a StoreError with a remedy. See `store_error` for the parameters."""
    try:
        yield
    except OSError as error:
        raise store_error(error, action, what) from error


def store_error(error: OSError, action: str, what: str) -> StoreError:
    """Return the StoreError for a system call that failed.

    Parameters:
        error: the failure.
        action: the verb of the message, as in `cannot write ...`.
        what: the file or folder, as the message names it.
    """
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.EFBIG:
        return StoreError(
            f"cannot {action} {what}: {reason}", remedy="the compiled guest exceeds a limit; use a smaller guest"
        )
    if error.errno in _FULL:
        remedy = "free space or raise the quota there, or set another cache folder"
    elif error.errno in _READ_ONLY:
        remedy = (
            "use a cache folder that the server's user can write, or fill this one beforehand with `sandboxd compile` "
            "as the same user and with the same settings"
        )
    else:
        remedy = "check the file system, or set another cache folder"
    return StoreError(f"cannot {action} {what}: {reason}", remedy=remedy)

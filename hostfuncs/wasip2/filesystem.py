"""wasi:filesystem: the folders of a guest, if it has any, and the methods on them.

Errors that are the same everywhere: `bad-descriptor` for a folder where a function needs a file, and `not-directory`
for a file where it needs a folder. Any other error of the host has the code that
`hostfuncs.wasip2.file_streams.CODES` gives it, or `io`.

Errors of every path, which docstrings call "those of a path": `no-entry` if a part of it does not exist or it is empty,
`not-directory` if a part of it is not a folder, `not-permitted` if it is absolute or leads out of the folder, `loop`
for too many symbolic links, `name-too-long`, and `invalid` for a NUL character. Those of a change are also `read-only`
for a read-only mount, and `quota` or `insufficient-space` if a limit leaves no room.
"""

import errno
import hashlib
from typing import Any

from hostfuncs.files import Stat
from hostfuncs.wasip2.file_methods import (
    HOW,
    KIND_NAMES,
    PREOPENS,
    SELF,
    TYPES,
    folder_of,
    method,
    own_stat,
    stat_value,
    time_of,
)
from hostfuncs.wasip2.file_streams import (
    Descriptor,
    DirectoryEntryStream,
    Opened,
    code_of,
)
from hostfuncs.wasip2.file_types import (
    DESCRIPTOR_FLAGS,
    DESCRIPTOR_STAT,
    DIRECTORY_ENTRY,
    ERROR_CODE,
    METADATA_HASH,
    NEW_TIMESTAMP,
    OPEN_FLAGS,
    PATH_FLAGS,
)
from hostfuncs.wasip2.host import Host
from hostfuncs.wasip2.io_error import IoError
from hostfuncs.wasip2.types import (
    BOOL,
    NONE,
    STRING,
    Borrow,
    List,
    Option,
    Own,
    Result,
    Tag,
    Tuple,
    err,
    ok,
    option,
    some,
)


def _follow(flags: frozenset[str]) -> bool:
    return "symlink-follow" in flags


def _hash(found: Stat) -> tuple[int, int]:
    digest = hashlib.blake2b(b"%d %d" % (found.device, found.inode), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


# folders --------------------------------------------------------------------------------------------------------------


@method("read-directory", result=Own(DirectoryEntryStream))
def read_directory(_host: Host, descriptor: Descriptor) -> DirectoryEntryStream:
    """Return a stream of a folder's entries, without `.` and `..`.

    Errors: `not-directory`; `overflow` if the folder has more entries than the limit.
    """
    return DirectoryEntryStream(folder_of(descriptor).entries())


@method("create-directory-at", STRING)
def create_directory_at(_host: Host, descriptor: Descriptor, path: str) -> None:
    """Make a folder. Errors: `exist` if the name is taken; those of a path; those of a change."""
    folder_of(descriptor).make_folder(path.encode())


@method("stat", result=DESCRIPTOR_STAT)
def stat(_host: Host, descriptor: Descriptor) -> tuple[Any, ...]:
    """Return the attributes of the file or folder. Errors: those of the host, such as `io`."""
    return stat_value(own_stat(descriptor))


@method("stat-at", PATH_FLAGS, STRING, result=DESCRIPTOR_STAT)
def stat_at(_host: Host, descriptor: Descriptor, flags: frozenset[str], path: str) -> tuple[Any, ...]:
    """Return the attributes of the file or folder at a path. Errors: those of a path."""
    return stat_value(folder_of(descriptor).stat(path.encode(), follow=_follow(flags)))


@method("set-times-at", PATH_FLAGS, STRING, NEW_TIMESTAMP, NEW_TIMESTAMP)
def set_times_at(
    host: Host, descriptor: Descriptor, flags: frozenset[str], path: str, accessed: Tag, modified: Tag
) -> None:
    """Set the times of the file or folder at a path.

    Errors: `invalid` for a time that is too great; those of a path; those of a change.
    """
    times = time_of(host, accessed), time_of(host, modified)
    folder_of(descriptor).set_times(path.encode(), *times, follow=_follow(flags))


@method("link-at", PATH_FLAGS, STRING, Borrow(Descriptor), STRING)
def link_at(
    _host: Host, descriptor: Descriptor, flags: frozenset[str], path: str, to: Descriptor, new_path: str
) -> None:
    """Give a file a second name.

    Errors: `invalid` if a symbolic link should be followed, as in wasmtime; `not-permitted` for a folder; `exist` if
    the new name is taken; `cross-device` between mounts; those of a path; those of a change.
    """
    if flags:
        raise OSError(errno.EINVAL, "links are not followed")
    folder_of(descriptor).link(path.encode(), folder_of(to), new_path.encode())


@method("open-at", PATH_FLAGS, STRING, OPEN_FLAGS, DESCRIPTOR_FLAGS, result=Own(Descriptor))
def open_at(
    host: Host,
    descriptor: Descriptor,
    path_flags: frozenset[str],
    path: str,
    open_flags: frozenset[str],
    flags: frozenset[str],
) -> Descriptor:
    """Open a file or folder. Its mount decides whether a folder can be changed, and `mutate-directory` does not.

    Errors: `exist`, `is-directory`, `loop` and `invalid` as open(2) has them; `insufficient-memory` for too many open
    files; those of a path; those of a change.
    """
    how = 0
    for name in (*path_flags, *open_flags, *flags):
        how |= HOW.get(name, 0)
    assert host.files is not None
    return Descriptor(Opened(host.files.open(folder_of(descriptor), path.encode(), how)))


@method("readlink-at", STRING, result=STRING)
def readlink_at(_host: Host, descriptor: Descriptor, path: str) -> str:
    """Return the target of a symbolic link.

    Errors: `invalid` if it is not a symbolic link; `illegal-byte-sequence` if the target is not UTF-8; those of a path.
    """
    return _text(folder_of(descriptor).read_link(path.encode()))


@method("remove-directory-at", STRING)
def remove_directory_at(_host: Host, descriptor: Descriptor, path: str) -> None:
    """Remove an empty folder. Errors: `not-empty`; those of a path; those of a change."""
    folder_of(descriptor).remove_folder(path.encode())


@method("rename-at", STRING, Borrow(Descriptor), STRING)
def rename_at(_host: Host, descriptor: Descriptor, path: str, to: Descriptor, new_path: str) -> None:
    """Move a file or folder, and replace the file or empty folder that has the new name.

    Errors: `busy` for a path that names no entry; `not-empty`; `is-directory`; `cross-device` between mounts; those of
    a path; those of a change.
    """
    folder_of(descriptor).rename(path.encode(), folder_of(to), new_path.encode())


@method("symlink-at", STRING, STRING)
def symlink_at(_host: Host, descriptor: Descriptor, target: str, path: str) -> None:
    """Make a symbolic link.

    Errors: `not-permitted` for an absolute target; `exist` if the name is taken; those of a path; those of a change.
    """
    folder_of(descriptor).symlink(target.encode(), path.encode())


@method("unlink-file-at", STRING)
def unlink_file_at(_host: Host, descriptor: Descriptor, path: str) -> None:
    """Remove a name of a file. Errors: `is-directory` for a folder; those of a path; those of a change."""
    folder_of(descriptor).unlink(path.encode())


@method("metadata-hash", result=METADATA_HASH)
def metadata_hash(_host: Host, descriptor: Descriptor) -> tuple[int, int]:
    """Return a number that all descriptors of the same file share. Errors: those of the host, such as `io`."""
    return _hash(own_stat(descriptor))


@method("metadata-hash-at", PATH_FLAGS, STRING, result=METADATA_HASH)
def metadata_hash_at(_host: Host, descriptor: Descriptor, flags: frozenset[str], path: str) -> tuple[int, int]:
    """Return the number of `metadata-hash` for the file or folder at a path. Errors: those of a path."""
    return _hash(folder_of(descriptor).stat(path.encode(), follow=_follow(flags)))


# without error codes --------------------------------------------------------------------------------------------------


@TYPES.function("[method]descriptor.is-same-object", SELF, Borrow(Descriptor), result=BOOL)
def is_same_object(_host: Host, descriptor: Descriptor, other: Descriptor) -> bool:
    """Return whether both descriptors are open on the same file or folder. False if the guest may not know."""
    if descriptor.opened.what is other.opened.what:
        return True
    try:
        one, two = own_stat(descriptor), own_stat(other)
    except OSError:
        return False
    return bool(one.inode) and one[:2] == two[:2]


@TYPES.function(
    "[method]directory-entry-stream.read-directory-entry",
    Borrow(DirectoryEntryStream),
    result=Result(Option(DIRECTORY_ENTRY), ERROR_CODE),
)
def read_directory_entry(_host: Host, stream: DirectoryEntryStream) -> Tag:
    """Return the next entry; none at the end. Errors: `illegal-byte-sequence` for a name that is not UTF-8."""
    entry = next(stream.entries, None)
    if entry is None:
        return ok(NONE)
    try:
        return ok(some((KIND_NAMES[entry.kind], _text(entry.name))))
    except OSError as error:
        return err(code_of(error))


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "no UTF-8") from None


@TYPES.function("filesystem-error-code", Borrow(IoError), result=Option(ERROR_CODE))
def filesystem_error_code(_host: Host, error: IoError) -> Tag:
    """Return the error code of a failed stream of a file; none for other streams."""
    return option(error.file_code)


@PREOPENS.function("get-directories", result=List(Tuple((Own(Descriptor), STRING))))
def get_directories(host: Host) -> list[tuple[Descriptor, str]]:
    """Return the guest's mounts: a descriptor and a path for each."""
    files = host.files
    return [] if files is None else [(Descriptor(Opened(folder)), path) for path, folder in files.preopened]


INTERFACES = (PREOPENS, TYPES)

"""File and socket functions for guests without files. All fail with an errno, because nothing is preopened.

Source: WASI snapshot-01, wasi_snapshot_preview1.witx. There is no preopened directory, so `fd_prestat_get` answers BADF
for descriptor 3; C libraries find the end of the list by that. Every `path_` function finds an open stream (NOTDIR) or
nothing (BADF) where a directory should be. No pointer is followed, because the descriptor is checked first.
"""

from functools import partial

from hostfuncs.wasip1.errno import BADF, NOTDIR, NOTSOCK
from hostfuncs.wasip1.program import Function, Program


def fd_prestat_get(_program: Program, _fd: int, _prestat: int) -> int:
    """Errno: BADF always: no directory is preopened."""
    return BADF


def fd_prestat_dir_name(_program: Program, _fd: int, _path: int, _path_len: int) -> int:
    """Errno: BADF always: no directory is preopened."""
    return BADF


def on_directory(at: int, program: Program, *params: int) -> int:
    """Answer for any function that works below a directory. The directory's descriptor is parameter number `at`.

    Errno: NOTDIR if that descriptor is open, else BADF.
    """
    return BADF if program.stream(params[at]) < 0 else NOTDIR


def on_socket(program: Program, fd: int, *_params: int) -> int:
    """Answer for any function of sockets. Errno: NOTSOCK if the descriptor is open, else BADF."""
    return BADF if program.stream(fd) < 0 else NOTSOCK


_first = partial(on_directory, 0)

FUNCTIONS = (
    Function("fd_prestat_get", "ii", fd_prestat_get),
    Function("fd_prestat_dir_name", "iii", fd_prestat_dir_name),
    Function("path_create_directory", "iii", _first),
    Function("path_filestat_get", "iiiii", _first),
    Function("path_filestat_set_times", "iiiiIIi", _first),
    Function("path_link", "iiiiiii", _first),
    Function("path_open", "iiiiiIIii", _first),
    Function("path_readlink", "iiiiii", _first),
    Function("path_remove_directory", "iii", _first),
    Function("path_rename", "iiiiii", _first),
    Function("path_symlink", "iiiii", partial(on_directory, 2)),
    Function("path_unlink_file", "iii", _first),
    Function("sock_accept", "iii", on_socket),
    Function("sock_recv", "iiiiii", on_socket),
    Function("sock_send", "iiiii", on_socket),
    Function("sock_shutdown", "ii", on_socket),
)

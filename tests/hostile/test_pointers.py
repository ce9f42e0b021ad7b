"""Every pointer of every function of WASI preview 1: outside memory, at its very end, unaligned, and on top of another.

On a real server. Error numbers are those of WASI's typenames.witx; which function follows which pointer is said in
wasi_snapshot_preview1.witx: one that has already refused the descriptor follows none.
"""

from dataclasses import dataclass

import pytest

from tests.hostile.conftest import Counts
from tests.hostile.hostfunctions import NAMES, PAGE, ZEROS, digits
from tests.running import RunningServer

SUCCESS, BADF, FAULT, INVAL, NOSYS, NOTDIR, NOTSOCK, NOTSUP, SPIPE = 0, 8, 21, 28, 52, 54, 57, 58, 70
TRACEPARENT = len("TRACEPARENT=00-") + 32 + 1 + 16 + 3 + 1


@dataclass(frozen=True)
class P:
    """A pointer to so many bytes."""

    size: int


Arguments = tuple[P | int, ...]

FOLLOWED: dict[str, Arguments] = {
    "args_get": (P(4), P(len("caller") + 1)),
    "args_sizes_get": (P(4), P(4)),
    "environ_get": (P(4), P(TRACEPARENT)),
    "environ_sizes_get": (P(4), P(4)),
    "clock_res_get": (0, P(8)),
    "clock_time_get": (1, 0, P(8)),
    "fd_fdstat_get": (1, P(24)),
    "fd_filestat_get": (2, P(64)),
    "fd_read": (0, P(8), 1, P(4)),
    "fd_write": (1, P(8), 1, P(4)),
    "poll_oneoff": (P(48), P(32), 1, P(4)),
    "random_get": (P(100), 100),
}
"""Calls that succeed with pointers to so many zeros."""

UNFOLLOWED: dict[str, tuple[Arguments, int]] = {
    "fd_pread": ((0, P(8), 1, 0, P(4)), SPIPE),
    "fd_pwrite": ((1, P(8), 1, 0, P(4)), SPIPE),
    "fd_readdir": ((0, P(64), 64, 0, P(4)), NOTDIR),
    "fd_seek": ((0, 0, 0, P(8)), SPIPE),
    "fd_tell": ((0, P(8)), SPIPE),
    "fd_prestat_get": ((3, P(8)), BADF),
    "fd_prestat_dir_name": ((3, P(4), 4), BADF),
    "path_create_directory": ((0, P(4), 4), NOTDIR),
    "path_filestat_get": ((0, 0, P(4), 4, P(64)), NOTDIR),
    "path_filestat_set_times": ((0, 0, P(4), 4, 0, 0, 0), NOTDIR),
    "path_link": ((0, 0, P(4), 4, 0, P(4), 4), NOTDIR),
    "path_open": ((0, 0, P(4), 4, 0, 0, 0, 0, P(4)), NOTDIR),
    "path_readlink": ((0, P(4), 4, P(8), 8, P(4)), NOTDIR),
    "path_remove_directory": ((0, P(4), 4), NOTDIR),
    "path_rename": ((0, P(4), 4, 0, P(4), 4), NOTDIR),
    "path_symlink": ((P(4), 4, 0, P(4), 4), NOTDIR),
    "path_unlink_file": ((0, P(4), 4), NOTDIR),
    "sock_accept": ((0, 0, P(4)), NOTSOCK),
    "sock_recv": ((0, P(8), 1, 0, P(4), P(2)), NOTSOCK),
    "sock_send": ((0, P(8), 1, 0, P(4)), NOTSOCK),
}
"""Calls that a descriptor without a file behind it ends first."""

WITHOUT: dict[str, tuple[tuple[int, ...], int]] = {
    "fd_advise": ((0, 0, 0, 0), SPIPE),
    "fd_allocate": ((0, 0, 0), SPIPE),
    "fd_close": ((0,), SUCCESS),
    "fd_datasync": ((0,), INVAL),
    "fd_fdstat_set_flags": ((0, 4), SUCCESS),
    "fd_fdstat_set_rights": ((0, 0, 0), SUCCESS),
    "fd_filestat_set_size": ((0, 0), INVAL),
    "fd_filestat_set_times": ((0, 0, 0, 0), NOTSUP),
    "fd_renumber": ((0, 2), SUCCESS),
    "fd_sync": ((0,), INVAL),
    "proc_exit": ((77,), 77),
    "proc_raise": ((9,), NOSYS),
    "sched_yield": ((), SUCCESS),
    "sock_shutdown": ((0, 0), NOTSOCK),
}
"""Functions without pointers."""


def called(server: RunningServer, function: str, arguments: tuple[int, ...]) -> int:
    """Return the function's result."""
    reply = server.invoke("caller", digits(function, arguments))
    if reply.status_code == 200:
        return SUCCESS
    message = reply.json()["message"]
    prefix = "error invoking output binding caller: module closed with exit_code("
    assert message.startswith(prefix), (arguments, reply.text)
    return int(message.removeprefix(prefix).removesuffix(")"))


def placed(arguments: Arguments, pointer: int | None = None, at: int | None = None) -> tuple[int, ...]:
    """Numbers for a call: pointers into the zeros, 256 bytes apart; the one at position `at`, or all, replaced."""
    out = []
    for position, argument in enumerate(arguments):
        if isinstance(argument, int):
            out.append(argument)
        elif pointer is not None and at in (None, position):
            out.append(pointer)
        else:
            out.append(ZEROS + 256 * position)
    return tuple(out)


def outside(size: int) -> tuple[int, ...]:
    """Pointers to ranges that leave a memory of one page, by one byte and by far."""
    return (
        PAGE - size + 1,
        PAGE - 1 if size > 1 else PAGE,
        PAGE,
        PAGE + 1,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF - size,
        0xFFFFFFFF,
    )


def test_no_function_is_left_out() -> None:
    assert sorted((*FOLLOWED, *UNFOLLOWED, *WITHOUT)) == list(NAMES)


@pytest.mark.parametrize("function", FOLLOWED)
def test_pointers_that_are_followed(caller_server: RunningServer, function: str) -> None:
    before = Counts.of(caller_server)
    arguments = FOLLOWED[function]
    assert called(caller_server, function, placed(arguments)) == SUCCESS
    for position, argument in enumerate(arguments):
        if isinstance(argument, int):
            continue
        for bad in outside(argument.size):
            assert called(caller_server, function, placed(arguments, bad, position)) == FAULT, (position, hex(bad))
        for fine in (PAGE - argument.size, ZEROS + 1, ZEROS + 3, ZEROS + 7):
            assert called(caller_server, function, placed(arguments, fine, position)) == SUCCESS, (position, fine)
    # All at one place: what is written last stands there, and nothing else happens.
    assert called(caller_server, function, placed(arguments, ZEROS)) == SUCCESS
    assert called(caller_server, function, placed(arguments, ZEROS + 1)) == SUCCESS
    after = Counts.of(caller_server)
    assert after.total("sandboxd_worker_starts_total") == before.total("sandboxd_worker_starts_total")


@pytest.mark.parametrize("function", UNFOLLOWED)
def test_pointers_that_are_not_followed(caller_server: RunningServer, function: str) -> None:
    arguments, errno = UNFOLLOWED[function]
    for pointer in (ZEROS, ZEROS + 1, *outside(4)):
        assert called(caller_server, function, placed(arguments, pointer)) == errno, hex(pointer)


@pytest.mark.parametrize("function", WITHOUT)
def test_functions_without_pointers(caller_server: RunningServer, function: str) -> None:
    arguments, answer = WITHOUT[function]
    assert called(caller_server, function, arguments) == answer


@pytest.mark.parametrize(
    ("function", "arguments", "answer"),
    [
        ("random_get", (0, 0xFFFFFFFF), FAULT),
        ("random_get", (PAGE, 0), SUCCESS),
        ("random_get", (PAGE + 1, 0), FAULT),
        ("fd_read", (0, ZEROS, 0xFFFFFFFF, ZEROS), FAULT),
        ("fd_read", (0, ZEROS, 0x20000000, ZEROS), FAULT),
        ("fd_write", (1, ZEROS, 0xFFFFFFFF, ZEROS), FAULT),
        ("fd_write", (2, 0xFFFFFFFF, 0, ZEROS), FAULT),
        ("fd_write", (2, ZEROS, 0, ZEROS), SUCCESS),
        ("poll_oneoff", (ZEROS, ZEROS, 0, ZEROS), INVAL),
        ("poll_oneoff", (ZEROS, ZEROS, 0xFFFFFFFF, ZEROS), FAULT),
        ("poll_oneoff", (ZEROS, ZEROS, 0x10000000, ZEROS), FAULT),
        ("clock_time_get", (4, 0, ZEROS), INVAL),
        ("clock_time_get", (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, ZEROS), INVAL),
        ("fd_renumber", (0xFFFFFFFF, 0), BADF),
        ("fd_renumber", (0, 0xFFFFFFFF), BADF),
        ("fd_close", (0xFFFFFFFF,), BADF),
        ("fd_close", (3,), BADF),
    ],
)
def test_counts_and_numbers_out_of_range(
    caller_server: RunningServer, function: str, arguments: tuple[int, ...], answer: int
) -> None:
    assert called(caller_server, function, arguments) == answer

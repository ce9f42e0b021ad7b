"""WASI preview 1: reading, writing, and the descriptors of the standard streams."""

import struct

import pytest

from hostfuncs import wasip1
from hostfuncs.abi import DeadlineExceeded, OutputExceeded
from tests.host.preview1 import (
    BADF,
    END,
    FAULT,
    INVAL,
    MAX,
    NOTCAPABLE,
    NOTDIR,
    NOTSOCK,
    NOTSUP,
    SPIPE,
    SUCCESS,
    WITX,
    u32,
    u64,
)
from tests.host.wat import Bench, wasi

# standard streams -----------------------------------------------------------------------------------------------------


def vectors(guest: Bench, at: int, *ranges: tuple[int, int]) -> tuple[int, int]:
    guest.write(at, b"".join(struct.pack("<II", *pair) for pair in ranges))
    return at, len(ranges)


def test_reading_with_one_vector_until_the_end() -> None:
    guest = wasi("fd_read", stdin=b"hello")
    at, count = vectors(guest, 0, (100, 3))
    got = []
    for _ in range(3):
        assert guest.call("fd_read", 0, at, count, 16) == SUCCESS
        got.append(guest.read(100, 100 + u32(guest, 16)))
    assert got == [b"hel", b"lo", b""]


@pytest.mark.parametrize(
    "ranges",
    [
        [(100, 2), (200, 0), (300, 9)],
        [(100, 0), (100, 0), (300, 5)],
        [(100, 1), (101, 1), (102, 1), (103, 1), (104, 1)],
        [(100, 5), (300, 5)],
    ],
)
def test_reading_with_many_vectors(ranges: list[tuple[int, int]]) -> None:
    guest = wasi("fd_read", stdin=b"hello")
    assert guest.call("fd_read", 0, *vectors(guest, 0, *ranges), 64) == SUCCESS
    assert u32(guest, 64) == 5
    left, seen = 5, b""
    for pointer, length in ranges:
        seen += guest.read(pointer, pointer + min(length, left))
        left -= min(length, left)
    assert seen == b"hello"


def test_overlapping_vectors_take_the_later_bytes() -> None:
    guest = wasi("fd_read", stdin=b"abcdef")
    assert guest.call("fd_read", 0, *vectors(guest, 0, (100, 3), (101, 3)), 64) == SUCCESS
    assert guest.read(100, 104) == b"adef"


@pytest.mark.parametrize("ranges", [[(END - 2, 3)], [(100, 2), (END - 2, 3)], [(-1 & MAX, 1)], [(0, MAX)]])
def test_a_fault_while_reading_consumes_nothing(ranges: list[tuple[int, int]]) -> None:
    guest = wasi("fd_read", stdin=b"hello")
    assert guest.call("fd_read", 0, *vectors(guest, 0, *ranges), 64) == FAULT
    assert guest.call("fd_read", 0, *vectors(guest, 0, (100, 9)), 64) == SUCCESS
    assert guest.read(100, 105) == b"hello"


@pytest.mark.parametrize("name", ["fd_read", "fd_write"])
@pytest.mark.parametrize(
    ("iovs", "count", "result"),
    [(END - 7, 1, 0), (END, 1, 0), (-8, 1, 0), (0, -1, 0), (0, 0x2000_0000, 0), (8, 8192, 0), (0, 1, END - 3)],
)
def test_vectors_and_results_out_of_bounds(name: str, iovs: int, count: int, result: int) -> None:
    guest = wasi(name, stdin=b"hello")
    assert guest.call(name, 0 if name == "fd_read" else 1, iovs, count, result) == FAULT


def test_writing_gathers_vectors_in_order() -> None:
    guest = wasi("fd_write")
    guest.write(100, b"hello world")
    assert guest.call("fd_write", 1, *vectors(guest, 0, (106, 5), (0, 0), (100, 5)), 64) == SUCCESS
    assert guest.call("fd_write", 1, *vectors(guest, 0, (105, 1)), 64) == SUCCESS
    assert bytes(guest.program.stdout) == b"worldhello "
    assert u32(guest, 64) == 1


@pytest.mark.parametrize(("name", "fd"), [("fd_read", 0), ("fd_write", 2)])
def test_more_vectors_than_a_call_takes_move_fewer_bytes(name: str, fd: int) -> None:
    guest = wasi(name, stdin=b"x" * 5000)
    at, count = vectors(guest, 0, *[(60000, 1)] * 5000)
    assert guest.call(name, fd, at, count, 50000) == SUCCESS
    assert u32(guest, 50000) == 1024


@pytest.mark.parametrize(("name", "fd"), [("fd_read", 0), ("fd_write", 1)])
def test_empty_vectors_are_passed_over_to_the_last(name: str, fd: int) -> None:
    guest = wasi(name, stdin=b"abc")
    at, count = vectors(guest, 0, *[(60000, 0)] * 5000, (60000, 3))
    assert guest.call(name, fd, at, count, 50000) == SUCCESS
    assert u32(guest, 50000) == 3
    guest.state.deadline_ns = 0
    at, count = vectors(guest, 0, *[(60000, 0)] * 5000)
    with pytest.raises(DeadlineExceeded):
        guest.call(name, fd, at, count, 50000)


def test_stdout_may_reach_its_limit_and_not_pass_it() -> None:
    guest = wasi("fd_write", stdout_limit=10)
    assert guest.call("fd_write", 1, *vectors(guest, 0, (100, 4), (100, 6)), 64) == SUCCESS
    with pytest.raises(OutputExceeded, match="more than 10 bytes"):
        guest.call("fd_write", 1, *vectors(guest, 0, (100, 1)), 64)
    assert len(guest.program.stdout) == 10


def test_a_fault_is_told_before_the_limit() -> None:
    guest = wasi("fd_write", stdout_limit=10)
    assert guest.call("fd_write", 1, *vectors(guest, 0, (100, MAX)), 64) == FAULT


def test_stderr_keeps_its_end_and_counts_all() -> None:
    guest = wasi("fd_write", stderr_limit=10)
    for number in range(1000):
        guest.write(100, b"%03d" % number)
        guest.call("fd_write", 2, *vectors(guest, 0, (100, 3)), 64)
    assert guest.program.stderr.value() == b"6997998999"
    assert guest.program.stderr.total == 3000
    guest.write(50000, b"0123456789abc")
    guest.call("fd_write", 2, *vectors(guest, 0, (20000, 30013)), 64)
    assert guest.program.stderr.value() == b"3456789abc"
    assert guest.program.stderr.total == 33013
    assert u32(guest, 64) == 30013


def test_overlapping_stderr_vectors_cannot_overflow_the_count() -> None:
    guest = wasi("fd_write")
    guest.call("grow", 1023)
    at, count = vectors(guest, 0, *[(0, 1024 * END)] * 100)
    assert guest.call("fd_write", 2, at, count, 5000) == SUCCESS
    assert u32(guest, 5000) == 32 * 1024 * END


@pytest.mark.parametrize(("name", "fds"), [("fd_read", (1, 2, 3, MAX)), ("fd_write", (0, 3, MAX))])
def test_streams_have_one_direction(name: str, fds: tuple[int, ...]) -> None:
    guest = wasi(name, stdin=b"x")
    at, count = vectors(guest, 0, (100, 1))
    for fd in fds:
        assert guest.call(name, fd - (1 << 32) * (fd == MAX), at, count, 64) == BADF


# descriptors ----------------------------------------------------------------------------------------------------------


def several(*names: str, **options: object) -> Bench:
    """One guest with several functions."""
    letters = {"i": "i32", "I": "i64"}
    imports, functions = [], []
    for at, name in enumerate(names):
        types = " ".join(letters[letter] for letter in WITX[name])
        gets = " ".join(f"(local.get {number})" for number in range(len(WITX[name])))
        imports.append(f'(import "{wasip1.MODULE}" "{name}" (func $f{at} (param {types}) (result i32)))')
        functions.append(f'(func (export "{name}") (param {types}) (result i32) (call $f{at} {gets}))')
    parts = [*imports, '(memory (export "memory") 1)', *functions]
    return Bench(f"(module {' '.join(parts)})", **options)  # type: ignore[arg-type]


def test_closed_descriptors_are_closed_for_everything() -> None:
    guest = several("fd_close", "fd_write", "fd_fdstat_get", "fd_filestat_get", "fd_seek", "path_open", "sock_send")
    assert guest.call("fd_close", 1) == SUCCESS
    at, count = vectors(guest, 0, (100, 1))
    assert guest.call("fd_write", 1, at, count, 64) == BADF
    assert guest.call("fd_write", 2, at, count, 64) == SUCCESS
    for name, rest in {
        "fd_close": (),
        "fd_fdstat_get": (0,),
        "fd_filestat_get": (0,),
        "fd_seek": (0, 0, 0),
        "path_open": (0,) * 8,
        "sock_send": (0,) * 4,
    }.items():
        assert guest.call(name, 1, *rest) == BADF, name


def test_renumbering_moves_a_stream() -> None:
    guest = several("fd_renumber", "fd_write", "fd_close")
    guest.write(100, b"x")
    at, count = vectors(guest, 0, (100, 1))
    assert guest.call("fd_renumber", 1, 2) == SUCCESS
    assert guest.call("fd_write", 2, at, count, 64) == SUCCESS
    assert bytes(guest.program.stdout) == b"x"
    assert guest.program.stderr.total == 0
    assert guest.call("fd_write", 1, at, count, 64) == BADF
    assert guest.call("fd_renumber", 1, 2) == BADF
    assert guest.call("fd_renumber", 2, 1) == BADF
    assert guest.call("fd_renumber", 2, 2) == SUCCESS
    assert guest.call("fd_renumber", 2, 77) == BADF


def test_fdstat() -> None:
    guest = several("fd_fdstat_get", "fd_fdstat_set_flags", "fd_fdstat_set_rights")
    for fd, flags in ((0, 0), (1, 1), (2, 1)):
        guest.write(0, b"\xff" * 24)
        assert guest.call("fd_fdstat_get", fd, 0) == SUCCESS
        kind, got, rights, inheriting = struct.unpack("<BxHxxxxQQ", guest.read(0, 24))
        assert (kind, got, inheriting) == (1, flags, 0)
        assert bool(rights & 1 << 1) is (fd == 0)
        assert bool(rights & 1 << 6) is (fd != 0)
        assert rights & (1 << 2 | 1 << 5) == 0, "no seek, no tell"
    assert guest.call("fd_fdstat_set_flags", 1, 5) == SUCCESS
    assert guest.call("fd_fdstat_set_flags", 1, 2) == INVAL
    guest.call("fd_fdstat_get", 1, 0)
    assert struct.unpack("<H", guest.read(2, 4)) == (5,)
    assert guest.call("fd_fdstat_set_rights", 1, 1 << 6, 0) == SUCCESS
    assert guest.call("fd_fdstat_set_rights", 1, 1 << 1, 0) == NOTCAPABLE
    guest.call("fd_fdstat_get", 1, 0)
    assert u64(guest, 8) == 1 << 6
    assert guest.call("fd_fdstat_get", 1, END - 23) == FAULT
    assert guest.call("fd_fdstat_get", 3, 0) == BADF


def test_filestat() -> None:
    guest = wasi("fd_filestat_get")
    guest.write(0, b"\xff" * 64)
    assert guest.call("fd_filestat_get", 1, 0) == SUCCESS
    assert guest.read(0, 64) == struct.pack("<QQB7xQQQQQ", 0, 0, 1, 1, 0, 0, 0, 0)
    assert guest.call("fd_filestat_get", 1, END - 63) == FAULT


@pytest.mark.parametrize(
    ("name", "rest", "expected"),
    [
        ("fd_advise", (0, 0, 5), SPIPE),
        ("fd_advise", (0, 0, 6), INVAL),
        ("fd_allocate", (0, 0), SPIPE),
        ("fd_datasync", (), INVAL),
        ("fd_filestat_set_size", (0,), INVAL),
        ("fd_filestat_set_times", (0, 0, 0), NOTSUP),
        ("fd_pread", (0, 1, 0, 0), SPIPE),
        ("fd_prestat_get", (0,), BADF),
        ("fd_prestat_dir_name", (0, 0), BADF),
        ("fd_pwrite", (0, 1, 0, 0), SPIPE),
        ("fd_readdir", (0, 0, 0, 0), NOTDIR),
        ("fd_seek", (0, 0, 0), SPIPE),
        ("fd_seek", (0, 3, 0), INVAL),
        ("fd_sync", (), INVAL),
        ("fd_tell", (0,), SPIPE),
        ("path_create_directory", (0, 0), NOTDIR),
        ("path_filestat_get", (0, 0, 0, 0), NOTDIR),
        ("path_filestat_set_times", (0, 0, 0, 0, 0, 0), NOTDIR),
        ("path_link", (0, 0, 0, 0, 0, 0), NOTDIR),
        ("path_open", (0, 0, 0, 0, 0, 0, 0, 0), NOTDIR),
        ("path_readlink", (0, 0, 0, 0, 0), NOTDIR),
        ("path_remove_directory", (0, 0), NOTDIR),
        ("path_rename", (0, 0, 0, 0, 0), NOTDIR),
        ("path_unlink_file", (0, 0), NOTDIR),
        ("sock_accept", (0, 0), NOTSOCK),
        ("sock_recv", (0, 0, 0, 0, 0), NOTSOCK),
        ("sock_send", (0, 0, 0, 0), NOTSOCK),
        ("sock_shutdown", (0,), NOTSOCK),
    ],
)
def test_what_streams_cannot_do(name: str, rest: tuple[int, ...], expected: int) -> None:
    guest = wasi(name)
    assert guest.call(name, 0, *rest) == expected
    assert guest.call(name, 3, *rest) == BADF

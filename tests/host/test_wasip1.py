"""WASI preview 1, function by function, with pointers and numbers no C library would pass.

Numbers and layouts are those of wasi_snapshot_preview1.witx and typenames.witx.
"""

import struct
import time

import pytest

from hostfuncs import wasip1
from hostfuncs.abi import Cancelled, DeadlineExceeded, OutputExceeded, ProcExit
from hostfuncs.wasip1.gorand import GoRand
from tests.host.wat import HOUR_NS, Bench, guest_engine, wasi

SUCCESS, BADF, FAULT, INVAL, NOSYS, NOTDIR, NOTSOCK, NOTSUP, SPIPE, NOTCAPABLE = 0, 8, 21, 28, 52, 54, 57, 58, 70, 76
END = 65536
MAX = 0xFFFF_FFFF

WITX = {
    "args_get": "ii", "args_sizes_get": "ii", "environ_get": "ii", "environ_sizes_get": "ii",
    "clock_res_get": "ii", "clock_time_get": "iIi", "fd_advise": "iIIi", "fd_allocate": "iII", "fd_close": "i",
    "fd_datasync": "i", "fd_fdstat_get": "ii", "fd_fdstat_set_flags": "ii", "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii", "fd_filestat_set_size": "iI", "fd_filestat_set_times": "iIIi", "fd_pread": "iiiIi",
    "fd_prestat_get": "ii", "fd_prestat_dir_name": "iii", "fd_pwrite": "iiiIi", "fd_read": "iiii",
    "fd_readdir": "iiiIi", "fd_renumber": "ii", "fd_seek": "iIii", "fd_sync": "i", "fd_tell": "ii",
    "fd_write": "iiii", "path_create_directory": "iii", "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi", "path_link": "iiiiiii", "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii", "path_remove_directory": "iii", "path_rename": "iiiiii", "path_symlink": "iiiii",
    "path_unlink_file": "iii", "poll_oneoff": "iiii", "proc_exit": "i", "proc_raise": "i", "sched_yield": "",
    "random_get": "ii", "sock_accept": "iii", "sock_recv": "iiiiii", "sock_send": "iiiii", "sock_shutdown": "ii",
}  # fmt: skip


def u32(guest: Bench, at: int) -> int:
    return int(struct.unpack("<I", guest.read(at, at + 4))[0])


def u64(guest: Bench, at: int) -> int:
    return int(struct.unpack("<Q", guest.read(at, at + 8))[0])


def test_all_46_functions_have_the_types_of_the_witx() -> None:
    assert {name: function.params for name, function in wasip1.FUNCTIONS.items()} == WITX
    assert len(WITX) == 46
    assert {name for name, function in wasip1.FUNCTIONS.items() if function.result != "i"} == {"proc_exit"}


def test_the_types_are_those_wasmtime_has() -> None:
    """A module importing all of them links against wasmtime's own functions too."""
    import wasmtime

    letters = {"i": "i32", "I": "i64"}
    imports = "".join(
        f'(import "{wasip1.MODULE}" "{name}" (func (param {" ".join(letters[p] for p in function.params)})'
        f" {'(result i32)' if function.result else ''}))"
        for name, function in wasip1.FUNCTIONS.items()
    )
    module = wasmtime.Module(guest_engine(), wasmtime.wat2wasm(f"(module {imports})"))
    linker = wasmtime.Linker(guest_engine())
    linker.define_wasi()
    linker.instantiate_pre(module)


@pytest.mark.parametrize("name", sorted(set(WITX) - {"proc_exit"}))
@pytest.mark.parametrize("value", [MAX, END, END - 1, 0x8000_0000, 0])
def test_no_arguments_can_do_harm(name: str, value: int) -> None:
    """Every parameter the same hostile number: an errno comes back and the guest goes on."""
    guest = wasi(name, stdin=b"abc", args=(b"a",), env=(b"A=1",))
    arguments = [value if letter == "i" else (value << 32 | value) for letter in WITX[name]]
    signed = [n - (1 << 64) if n >= 1 << 63 else (n - (1 << 32) if 1 << 31 <= n < 1 << 32 else n) for n in arguments]
    assert guest.call(name, *signed) <= 76
    assert guest.state.ended is None
    assert guest.state.failure is None


# arguments and environment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "option"), [("args", "args"), ("environ", "env")])
def test_strings_are_laid_out_with_pointers(prefix: str, option: str) -> None:
    strings = (b"one", b"", b"x=y", "é".encode())
    sizes = wasi(f"{prefix}_sizes_get", **{option: strings})
    assert sizes.call(f"{prefix}_sizes_get", 0, 4) == SUCCESS
    assert sizes.read(0, 8) == struct.pack("<II", 4, 12)
    guest = wasi(f"{prefix}_get", **{option: strings})
    assert guest.call(f"{prefix}_get", 100, 200) == SUCCESS
    assert guest.read(100, 116) == struct.pack("<4I", 200, 204, 205, 209)
    assert guest.read(200, 213) == b"one\0\0x=y\0\xc3\xa9\0\0"


@pytest.mark.parametrize(
    ("pointers", "block", "expected"),
    [
        (END - 8, 0, SUCCESS),
        (END - 7, 0, FAULT),
        (0, END - 4, SUCCESS),
        (0, END - 3, FAULT),
        (MAX, 0, FAULT),
        (0, MAX, FAULT),
    ],
)
def test_strings_that_do_not_fit_are_a_fault_and_write_nothing(pointers: int, block: int, expected: int) -> None:
    guest = wasi("args_get", args=(b"a", b"b"))
    before = guest.read(0, END)
    assert (
        guest.call("args_get", pointers - (1 << 32) * (pointers == MAX), block - (1 << 32) * (block == MAX)) == expected
    )
    assert (guest.read(0, END) == before) is (expected != SUCCESS)


def test_many_arguments() -> None:
    strings = tuple(b"%d" % number for number in range(1000))
    guest = wasi("args_get", args=strings)
    assert guest.call("args_get", 0, 8000) == SUCCESS
    for at in (0, 32, 33, 999):
        pointer = u32(guest, 4 * at)
        assert guest.read(pointer, pointer + len(strings[at]) + 1) == strings[at] + b"\0"


def test_a_string_with_a_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        wasip1.Strings([b"a\0b"])


# clocks and randomness ------------------------------------------------------------------------------------------------


def test_clocks_tell_the_time() -> None:
    guest = wasi("clock_time_get")
    before = time.time_ns()
    assert guest.call("clock_time_get", 0, 0, 8) == SUCCESS
    assert before <= u64(guest, 8) <= time.time_ns()
    before = time.monotonic_ns()
    assert guest.call("clock_time_get", 1, 0, 8) == SUCCESS
    assert before <= u64(guest, 8) <= time.monotonic_ns()


@pytest.mark.parametrize("clock", [2, 3])
def test_cpu_clocks_count_from_their_first_reading(clock: int) -> None:
    guest = wasi("clock_time_get")
    assert guest.call("clock_time_get", clock, 0, 8) == SUCCESS
    assert u64(guest, 8) == 0
    guest.call("clock_time_get", clock, 0, 8)
    assert u64(guest, 8) > 0


@pytest.mark.parametrize("name", ["clock_res_get", "clock_time_get"])
def test_unknown_clocks_and_bad_pointers(name: str) -> None:
    guest = wasi(name)
    middle = (0,) if name == "clock_time_get" else ()
    assert guest.call(name, 4, *middle, 0) == INVAL
    assert guest.call(name, 0, *middle, END - 8) == SUCCESS
    assert guest.call(name, 0, *middle, END - 7) == FAULT


@pytest.mark.parametrize(("strict", "realtime"), [(False, 1_000), (True, 1_000_000)])
def test_resolutions_are_those_dapr_sets(strict: bool, realtime: int) -> None:
    guest = wasi("clock_res_get", strict=strict)
    guest.call("clock_res_get", 0, 0)
    guest.call("clock_res_get", 1, 8)
    assert (u64(guest, 0), u64(guest, 8)) == (realtime, 1)


def test_strict_clocks_advance_by_reading() -> None:
    """components-contrib common/wasm newFakeWalltime; wazero internal/platform NewFakeNanotime."""
    before = time.time_ns() // 10**9 * 10**9
    guest = wasi("clock_time_get", strict=True)
    after = time.time_ns() // 10**9 * 10**9
    readings = []
    for clock in (0, 0, 0, 1, 1, 1):
        guest.call("clock_time_get", clock, 0, 0)
        readings.append(u64(guest, 0))
    start = readings[0] - 1_000_000
    assert before <= start <= after
    assert start % 10**9 == 0
    assert readings[1:3] == [start + 2_000_000, start + 3_000_000]
    assert readings[3:] == [0, 1_000_000, 2_000_000]


def test_strict_randomness_is_gos() -> None:
    """Printed by Go 1.26: rand.New(rand.NewSource(42)), Read of 5, 20 and 10,000 bytes."""
    guest = wasi("random_get", strict=True)
    assert guest.call("random_get", 0, 5) == SUCCESS
    assert guest.call("random_get", 5, 20) == SUCCESS
    assert guest.read(0, 25).hex() == "538c7f96b164bf1b97bb9f4bb472e89f5b1484f25209c9d934"
    assert guest.call("random_get", 0, 10_000) == SUCCESS
    assert guest.read(9_990, 10_000).hex() == "7fe4a820a63a745d3f0e"
    assert GoRand().read(0) == b""


def test_randomness_is_random_and_bounded() -> None:
    guest = wasi("random_get")
    assert guest.call("random_get", 0, 32) == SUCCESS
    assert guest.call("random_get", 32, 32) == SUCCESS
    assert guest.read(0, 32) != guest.read(32, 64)
    assert guest.call("random_get", END - 8, 8) == SUCCESS
    assert guest.call("random_get", END - 8, 9) == FAULT
    assert guest.call("random_get", 0, -1) == FAULT
    assert guest.call("random_get", END, 0) == SUCCESS


def test_much_randomness_is_filled_in_whole_and_stops_at_the_deadline() -> None:
    guest = wasi("random_get")
    assert guest.call("grow", 31) == 1
    assert guest.call("random_get", 1, 32 * END - 2) == SUCCESS
    data = guest.read(0, 32 * END)
    assert data[0] == 0
    assert data[-1] == 0
    assert all(any(data[at : at + 64]) for at in range(1, len(data) - 65, 4096))
    guest.state.deadline_ns = 0
    with pytest.raises(DeadlineExceeded):
        guest.call("random_get", 1, 32 * END - 2)


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


def test_path_symlink_names_its_directory_third() -> None:
    guest = wasi("path_symlink")
    assert guest.call("path_symlink", 9, 9, 1, 9, 9) == NOTDIR
    assert guest.call("path_symlink", 1, 1, 9, 1, 1) == BADF


# processes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 255, 256, MAX])
def test_exit_codes_arrive_whole(code: int) -> None:
    guest = wasi("proc_exit")
    with pytest.raises(ProcExit) as caught:
        guest.call("proc_exit", code - (1 << 32) * (code == MAX))
    assert caught.value.code == code


def test_signals_and_yielding() -> None:
    assert wasi("proc_raise").call("proc_raise", 9) == NOSYS
    assert wasi("sched_yield").call("sched_yield") == SUCCESS


# poll -----------------------------------------------------------------------------------------------------------------


def clock(userdata: int, clock_id: int, timeout: int, flags: int = 0) -> bytes:
    return struct.pack("<QB7xIxxxxQQH6x", userdata, 0, clock_id, timeout, 0, flags)


def stream(userdata: int, tag: int, fd: int) -> bytes:
    return struct.pack("<QB7xI28x", userdata, tag, fd)


def poll(guest: Bench, *subscriptions: bytes) -> list[tuple[int, int, int, int, int]]:
    guest.write(0, b"".join(subscriptions))
    guest.write(30000, b"\xff" * 32 * len(subscriptions))
    assert guest.call("poll_oneoff", 0, 30000, len(subscriptions), 65000) == SUCCESS
    count = u32(guest, 65000)
    layout = struct.Struct("<QHB5xQH6x")
    return [layout.unpack(guest.read(30000 + 32 * at, 30032 + 32 * at)) for at in range(count)]  # type: ignore[misc]


def test_layouts() -> None:
    assert len(clock(1, 2, 3)) == len(stream(1, 2, 3)) == 48


def test_streams_are_ready_and_clocks_are_not_waited_for() -> None:
    guest = wasi("poll_oneoff", stdin=b"abc")
    events = poll(guest, clock(1, 1, HOUR_NS), stream(2, 1, 0), stream(3, 2, 1), stream(4, 1, 1), stream(5, 2, 9))
    assert events == [(2, 0, 1, 3, 0), (3, 0, 2, 65536, 0), (4, BADF, 1, 0, 0), (5, BADF, 2, 0, 0)]


def test_at_its_end_stdin_is_ready_and_hung_up() -> None:
    assert poll(wasi("poll_oneoff"), stream(7, 1, 0)) == [(7, 0, 1, 0, 1)]


@pytest.mark.parametrize("clock_id", [0, 1])
@pytest.mark.parametrize("absolute", [False, True])
def test_sleeping_takes_the_time_it_should(clock_id: int, absolute: bool) -> None:
    guest = wasi("poll_oneoff")
    pause = 30_000_000
    now = time.time_ns() if clock_id == 0 else time.monotonic_ns()
    began = time.monotonic_ns()
    events = poll(guest, clock(8, clock_id, now + pause if absolute else pause, int(absolute)), clock(9, 1, HOUR_NS))
    assert events == [(8, 0, 0, 0, 0)]
    assert time.monotonic_ns() - began >= pause - 1_000_000


def test_an_instant_that_has_passed_is_ready() -> None:
    assert poll(wasi("poll_oneoff"), clock(8, 1, 1, 1), clock(9, 0, 1, 1)) == [(8, 0, 0, 0, 0), (9, 0, 0, 0, 0)]


def test_clocks_that_cannot_be_waited_for() -> None:
    assert poll(wasi("poll_oneoff"), clock(8, 2, 1), clock(9, 77, 1)) == [(8, NOTSUP, 0, 0, 0), (9, INVAL, 0, 0, 0)]


@pytest.mark.parametrize("timeout", [HOUR_NS, (1 << 64) - 1])
def test_a_sleep_ends_with_the_deadline(timeout: int) -> None:
    guest = wasi("poll_oneoff", deadline_ns=20_000_000)
    with pytest.raises(DeadlineExceeded):
        poll(guest, clock(8, 1, timeout))


def test_a_sleep_ends_when_the_caller_goes_away() -> None:
    import threading

    guest = wasi("poll_oneoff")
    gone = threading.Event()
    guest.state.begin(time.monotonic_ns() + HOUR_NS, gone.is_set)

    def leave() -> None:
        gone.set()
        guest.state.wake()

    thread = threading.Thread(target=leave)
    thread.start()
    with pytest.raises(Cancelled):
        poll(guest, clock(8, 1, HOUR_NS))
    thread.join()


def test_the_strict_sandbox_does_not_sleep() -> None:
    guest = wasi("poll_oneoff", strict=True, deadline_ns=HOUR_NS)
    assert poll(guest, clock(8, 1, 1000 * HOUR_NS), clock(9, 1, 2000 * HOUR_NS)) == [(8, 0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 30000, 0, 65000), INVAL),
        ((0, 0, 1025, 65000), INVAL),
        ((0, 0, -1, 65000), FAULT),
        ((END - 47, 0, 1, 65000), FAULT),
        ((0, END - 31, 1, 65000), FAULT),
        ((0, 30000, 1, END - 3), FAULT),
    ],
)
def test_poll_refuses(arguments: tuple[int, ...], expected: int) -> None:
    assert wasi("poll_oneoff").call("poll_oneoff", *arguments) == expected


@pytest.mark.parametrize("subscription", [stream(1, 3, 0), clock(1, 1, 0, 2)])
def test_poll_refuses_unknown_tags_and_flags(subscription: bytes) -> None:
    guest = wasi("poll_oneoff")
    guest.write(0, subscription)
    assert guest.call("poll_oneoff", 0, 30000, 1, 65000) == INVAL

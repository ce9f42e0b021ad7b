"""WASI preview 1, function by function, with pointers and numbers no C library would pass.

Numbers and layouts are those of wasi_snapshot_preview1.witx and typenames.witx.
"""

import struct
import time

import pytest

from hostfuncs import imports, legacy_http, wasip1
from hostfuncs.abi import DeadlineExceeded, ProcExit
from hostfuncs.wasip1.gorand import GoRand
from tests.host.preview1 import BADF, END, FAULT, INVAL, MAX, NOSYS, NOTDIR, SUCCESS, WITX, u32, u64
from tests.host.wat import guest_engine, wasi


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


def test_the_names_that_are_checked_before_compiling_are_those_that_are_linked() -> None:
    assert wasip1.FUNCTIONS.keys() == imports.WASIP1_FUNCTIONS
    assert legacy_http.MODULES.keys() == set(imports.LEGACY_HTTP)

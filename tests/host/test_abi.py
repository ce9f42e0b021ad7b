"""The boundary between Python and core guests: numbers, memory, exceptions."""

import ctypes
import struct
from typing import Any

import pytest
import wasmtime

from hostfuncs import wasip1
from hostfuncs.abi import (
    Fault,
    GuestFunction,
    GuestMemory,
    GuestTrapped,
    HostTrap,
    InvocationState,
    ProcExit,
    define,
    exported_function_type,
    func_type,
)
from tests.host.wat import Bench, guest_engine, passing


def defined(function: Any, params: str, result: str, **options: Any) -> Any:
    return lambda linker, state: define(linker, "host", "f", params, result, function, state, **options)


def bench(function: Any, params: str, result: str, **options: Any) -> Bench:
    return Bench(passing("f", params, result, "host"), define=defined(function, params, result, **options))


def test_integers_arrive_unsigned_and_go_back_whole() -> None:
    seen = []

    def function(*numbers: int) -> int:
        seen.append(numbers)
        return 0xFFFF_FFFE

    assert bench(function, "iIi", "i").call("f", -1, -2, 5) == 0xFFFF_FFFE
    assert seen == [(0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFE, 5)]


def test_a_64_bit_result() -> None:
    guest = bench(lambda number: number ^ 0xFFFF_FFFF_FFFF_FFFF, "I", "I")
    function = guest.instance.exports(guest.store)["f"]
    assert isinstance(function, wasmtime.Func)
    assert function(guest.store, 1) == -2


def test_sixteen_parameters_arrive_in_order() -> None:
    seen: list[int] = []
    bench(lambda *numbers: seen.extend(numbers), "i" * 16, "").call("f", *range(16))
    assert seen == list(range(16))


@pytest.mark.parametrize(("params", "result"), [("x", ""), ("i" * 17, ""), ("i", "ii"), ("", "v")])
def test_types_that_cannot_be_expressed(params: str, result: str) -> None:
    with pytest.raises(ValueError, match="not a function type"):
        func_type(params, result)


def test_functions_of_one_type_are_defined_for_several_engines() -> None:
    for engine in (wasmtime.Engine(), wasmtime.Engine(), guest_engine(), wasmtime.Engine()):
        linker = wasmtime.Linker(engine)
        state = InvocationState()
        for name in ("f", "g"):
            define(linker, "host", name, "iI", "i", lambda a, b: a + b, state)
        store = wasmtime.Store(engine)
        module = wasmtime.Module(engine, '(module (import "host" "f" (func (param i32 i64) (result i32))))')
        assert isinstance(linker.instantiate(store, module), wasmtime.Instance)


def test_only_the_functions_that_are_named_are_defined() -> None:
    linker = wasmtime.Linker(guest_engine())
    program = wasip1.Program(InvocationState(), stdout_limit=1, stderr_limit=1)
    wasip1.link(linker, program, names={"fd_write", "no_such_function"})
    store = wasmtime.Store(guest_engine())
    assert isinstance(linker.get(store, wasip1.MODULE, "fd_write"), wasmtime.Func)
    with pytest.raises(wasmtime.WasmtimeError, match="item not defined"):
        linker.get(store, wasip1.MODULE, "fd_read")


def test_a_name_is_defined_once() -> None:
    def twice(linker: wasmtime.Linker, state: InvocationState) -> None:
        for _ in range(2):
            define(linker, "host", "f", "i", "i", lambda n: n, state)

    with pytest.raises(ValueError, match=r"host\.f cannot be defined"):
        Bench(passing("f", "i", "i", "host"), define=twice)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError(), ValueError("x")])
@pytest.mark.parametrize("result", ["", "i", "I"])
def test_no_exception_leaves_a_host_function(error: BaseException, result: str) -> None:
    def function(_number: int) -> int:
        raise error

    guest = bench(function, "i", result)
    with pytest.raises(AssertionError, match=type(error).__name__):
        guest.call("f", 1)
    assert guest.state.failure is not None
    assert guest.state.ended is None
    assert guest.state.interrupt is (None if isinstance(error, Exception) else error)


@pytest.mark.parametrize("answer", [-1, 1 << 32, None, "1", 1.5])
def test_a_wrong_answer_is_the_hosts_fault(answer: Any) -> None:
    guest = bench(lambda _number: answer, "i", "i")
    with pytest.raises(AssertionError):
        guest.call("f", 1)


def test_a_reason_ends_the_guest_and_is_kept() -> None:
    def function(_number: int) -> int:
        raise ProcExit(7)

    guest = bench(function, "i", "i")
    with pytest.raises(ProcExit):
        guest.call("f", 1)
    assert isinstance(guest.state.ended, ProcExit)
    assert guest.state.ended.code == 7


def test_a_fault_is_an_error_number_where_there_is_one() -> None:
    guest = bench(lambda pointer: guest.state.memory.write_u32(pointer, 1) or 0, "i", "i", fault=21)
    assert guest.call("f", 65532) == 0
    assert guest.call("f", 65533) == 21
    assert guest.state.ended is None


def test_a_fault_ends_the_guest_if_the_function_has_no_errno() -> None:
    guest = bench(lambda pointer: guest.state.memory.write_u32(pointer, 1), "i", "")
    with pytest.raises(HostTrap, match="4 bytes at 65533 are outside the guest's memory of 65536 bytes"):
        guest.call("f", 65533)


def test_an_error_number_needs_a_result() -> None:
    with pytest.raises(ValueError, match="needs a result of type i"):
        bench(lambda _n: None, "i", "", fault=21)


def accesses(memory: GuestMemory, pointer: int, length: int) -> list[Any]:
    layout = struct.Struct(f"<{length}s")
    return [
        lambda: memory.check(pointer, length),
        lambda: memory.read(pointer, length),
        lambda: memory.write(pointer, bytes(length)),
        lambda: memory.append_to(bytearray(), pointer, length),
        lambda: memory.unpack(layout, pointer),
        lambda: memory.pack(layout, pointer, bytes(length)),
        lambda: memory.unpack_array(layout, pointer, 1),
    ]


EDGES = [
    (0, 65536, True),
    (65535, 1, True),
    (65536, 1, False),
    (65535, 2, False),
    (0, 65537, False),
    (0xFFFF_FFFF, 1, False),
    (0xFFFF_FFFF, 65536, False),
]


@pytest.mark.parametrize(("pointer", "length", "inside"), EDGES)
def test_every_access_is_bounds_checked(pointer: int, length: int, inside: bool) -> None:
    outcomes: list[Any] = []

    def function(_number: int) -> int:
        for access in accesses(guest.state.memory, pointer, length):
            try:
                access()
                outcomes.append(True)
            except Fault as fault:
                outcomes.append((fault.pointer, fault.length, fault.size))
        return 0

    guest = bench(function, "i", "i")
    guest.call("f", 0)
    assert outcomes == [True if inside else (pointer, length, 65536)] * 7


def test_huge_lengths_allocate_nothing() -> None:
    def function(_number: int) -> int:
        memory = guest.state.memory
        for attempt in (
            lambda: memory.read(1, 0xFFFF_FFFF),
            lambda: memory.unpack_array(struct.Struct("<II"), 1, 0xFFFF_FFFF),
        ):
            with pytest.raises(Fault):
                attempt()
        return 0

    guest = bench(function, "i", "i")
    guest.call("f", 0)


def test_growth_is_noticed_by_the_access_that_needs_it() -> None:
    guest = bench(lambda pointer: guest.state.memory.write(pointer, b"abc") or 0, "i", "i", fault=21)
    assert guest.call("f", 65534) == 21
    assert guest.call("grow", 1) == 1
    assert guest.call("f", 65534) == 0
    assert guest.read(65534, 65537) == b"abc"
    assert guest.state.memory.size() == 2 * 65536
    assert guest.call("f", 2 * 65536 - 2) == 21


def test_nothing_is_reachable_after_the_guest() -> None:
    guest = bench(lambda pointer: guest.state.memory.write_u32(pointer, 1) or 0, "i", "i")
    assert guest.call("f", 0) == 0
    guest.state.finish()
    memory = guest.state.memory
    assert repr(memory) == "<GuestMemory detached>"
    for access in accesses(memory, 0, 1):
        with pytest.raises(Fault):
            access()
    assert memory.size() == 0


def test_a_guest_without_memory_has_only_faults() -> None:
    wat = """(module (import "host" "f" (func $f (param i32) (result i32)))
        (func (export "f") (param i32) (result i32) (call $f (local.get 0))))"""
    define_f = defined(lambda pointer: guest.state.memory.write_u32(pointer, 1) or 0, "i", "i", fault=21)
    guest = Bench(wat, define=define_f)
    assert guest.call("f", 0) == 21


def test_memory_is_there_during_a_start_function() -> None:
    wat = """(module (import "host" "f" (func $f (param i32) (result i32)))
        (memory (export "memory") 1)
        (func $start (i32.store (i32.const 8) (call $f (i32.const 4)))) (start $start))"""
    states: list[InvocationState] = []

    def link(linker: wasmtime.Linker, state: InvocationState) -> None:
        states.append(state)
        define(linker, "host", "f", "i", "i", lambda at: state.memory.write_u32(at, 9) or 3, state, fault=21)

    guest = Bench(wat, define=link)
    assert guest.read(4, 12) == struct.pack("<II", 9, 3)


ALLOCATOR = """(module
    (import "host" "f" (func $f (param i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "good") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "bad") (param i32 i32) (result i32) unreachable)
    (func (export "again") (param i32 i32) (result i32) (call $f (i32.const 0)))
    (func (export "f") (param i32) (result i32) (call $f (local.get 0))))"""


def calling(export: str, *, usable: bool = True) -> Bench:
    def link(linker: wasmtime.Linker, state: InvocationState) -> None:
        call = GuestFunction(state, export, 2, usable=usable)
        define(linker, "host", "f", "i", "i", lambda number: call(number, 0xFFFF_FFFF), state)

    guest = Bench(ALLOCATOR, define=link)
    context = ctypes.cast(guest.store._context(), ctypes.c_void_p).value
    assert context
    guest.state.enter(context, ctypes.addressof(guest.instance._instance))
    return guest


def test_calling_the_guest_back_outside_a_run_is_an_error_and_no_crash() -> None:
    guest = calling("good")
    guest.state.finish()
    with pytest.raises(AssertionError, match="good was called outside a run"):
        guest.call("f", 8)


def test_a_host_function_calls_the_guest_back() -> None:
    assert calling("good").call("f", 8) == 7


def test_a_trap_in_a_call_back_ends_the_guest_with_its_code() -> None:
    guest = calling("bad")
    with pytest.raises(GuestTrapped):
        guest.call("f", 8)
    assert isinstance(guest.state.ended, GuestTrapped)
    assert guest.state.ended.code == wasmtime.TrapCode.UNREACHABLE.value


def test_calls_back_do_not_nest() -> None:
    with pytest.raises(HostTrap, match="in such a call already"):
        calling("again").call("f", 8)


@pytest.mark.parametrize(("export", "usable"), [("nothing", True), ("memory", True), ("good", False)])
def test_an_export_that_is_missing_or_of_another_type(export: str, usable: bool) -> None:
    with pytest.raises(HostTrap, match="exports no function"):
        calling(export, usable=usable).call("f", 8)


def test_export_types_are_read_from_the_module() -> None:
    module = wasmtime.Module(guest_engine(), ALLOCATOR)
    assert exported_function_type(module, "good") == (["i32", "i32"], ["i32"])
    assert exported_function_type(module, "memory") is None
    assert exported_function_type(module, "nothing") is None
